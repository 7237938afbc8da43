"""What happened to each token: a small SQLite database. Losing it costs nothing but memory."""

from osg_token_renewer.history.store import History

__all__ = ["History"]
