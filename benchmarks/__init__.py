"""What tf_bnfold costs and gives, measured beside what its users would take instead: `make bench`."""
