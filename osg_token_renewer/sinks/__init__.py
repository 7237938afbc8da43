"""Where tokens go: one module for each kind of place, listed in registry.py."""
