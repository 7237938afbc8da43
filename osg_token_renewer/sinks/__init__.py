"""Where a token goes: one module a kind, listed in registry.py."""
