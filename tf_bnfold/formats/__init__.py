"""Formats: what goes in and what comes out, on either side of one frozen graph with signatures."""
