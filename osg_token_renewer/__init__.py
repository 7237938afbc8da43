"""Keeps bearer tokens in files fresh: see ARCHITECTURE.md for the layers and the walk of one token."""

__version__ = "2.0.0"
