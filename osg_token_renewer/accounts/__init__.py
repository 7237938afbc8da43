"""Setting up accounts: registration, logins, and what they leave on this host."""
