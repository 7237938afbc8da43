"""Talking to an issuer over HTTPS: the client, its connections, its trust, and the issuer's metadata."""
