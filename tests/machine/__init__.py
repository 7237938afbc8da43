"""The packages, on a booted system. Run once, by `make e2e`, as root: it has the system's own Python and is
not about others."""
