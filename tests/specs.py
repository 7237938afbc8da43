"""Tokens as the configuration makes them, for tests."""

from __future__ import annotations

from typing import Any, Optional

from osg_token_renewer.model import TokenSpec
from osg_token_renewer.sinks.file import FileSettings


def file_token(
    name: str,
    account: str,
    path: str,
    *asked: Any,
    mode: Optional[int] = None,
    group: Optional[str] = None,
    owner: Optional[str] = None,
    **more: Any,
) -> TokenSpec:
    """A token that goes to the file `path`; `asked` and `more` are further fields of TokenSpec."""
    return TokenSpec(name, account, FileSettings(path, mode, group, owner), *asked, **more)
