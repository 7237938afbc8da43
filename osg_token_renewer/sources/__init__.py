"""The ways an account obtains a token: one module each, listed in all_sources.py."""
