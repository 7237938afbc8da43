"""The packages on a booted system. `make e2e` runs these tests as root, with the system's own Python."""
