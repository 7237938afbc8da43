"""Access tokens: what they say, what they grant, and whether the issuer's clock is right."""
