"""What happened to each token: a small SQLite database in the state directory. Losing it costs nothing but
memory."""

from osg_token_renewer.history.store import History

__all__ = ["History"]
