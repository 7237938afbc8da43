"""How accounts obtain tokens: one module or package for each kind, listed in registry.py."""
