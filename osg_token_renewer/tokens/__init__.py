"""Access tokens: reading them and checking what they grant."""
