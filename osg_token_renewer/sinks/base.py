"""What a sink is: a place where tokens go. One subclass a kind, listed in registry.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from osg_token_renewer.model import AccessToken, Published, TokenSpec
from osg_token_renewer.options import Option


class Sink(ABC):
    """One kind of place for tokens. It keeps nothing between two calls."""

    # What a token's `sink` names.
    NAME: str
    # The option whose presence makes this the token's sink.
    MARKER: str
    # The options of a `[token]` section that only this sink reads.
    OPTIONS: tuple[Option, ...]

    @abstractmethod
    def settings(self, values: Mapping[str, Any]) -> Any:
        """The token's destination, from the parsed options; it has a `path`, which no other token may have.

        Raises ValueError for combinations that make no sense.
        """

    @abstractmethod
    def read(self, spec: TokenSpec) -> Published:
        """What is published there now; never raises."""

    @abstractmethod
    def preflight(self, spec: TokenSpec) -> None:
        """Raises Local if publishing cannot succeed, so that no issuer is asked in vain."""

    @abstractmethod
    def publish(self, spec: TokenSpec, token: AccessToken) -> tuple[str, ...]:
        """Puts the token there atomically; returns warnings. Raises Local, and the old token is then still there."""

    @abstractmethod
    def remove(self, spec: TokenSpec, published: Published) -> None:
        """Removes the very token that was read as `published`; raises Local if it stays."""

    def sweep(self, specs: Sequence[TokenSpec]) -> None:  # noqa: ARG002
        """Removes what a killed run left behind while it published these tokens; never raises."""
        return
