"""Tokens as the configuration makes them, for tests."""

from __future__ import annotations

from typing import Any, Optional

from osg_token_renewer.engine import planner
from osg_token_renewer.model import Planned, Published, TokenRecord, TokenSpec
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


def plan(spec: TokenSpec, published: Published, record: Optional[TokenRecord], now: float) -> Planned:
    """What a run plans for a token that it finds so."""
    decision = planner.decide(spec, published, record, now)
    return Planned(spec, published, record, decision, planner.expiry(published, record))
