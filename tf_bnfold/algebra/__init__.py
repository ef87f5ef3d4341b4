"""The algebra: affines, how they pass ops, how linear ops absorb them. numpy only."""
