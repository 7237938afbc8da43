"""A run: what is due, lanes in parallel, and what became of each token."""
