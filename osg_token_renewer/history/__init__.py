"""What happened to each token: a small SQLite database. Losing it costs nothing but memory."""
