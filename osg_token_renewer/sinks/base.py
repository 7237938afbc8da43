"""What a sink is: a kind of place where tokens go. Each kind is one subclass, listed in registry.py."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from osg_token_renewer.model import AccessToken, Published, TokenSpec
from osg_token_renewer.options import Option


class Sink(ABC):
    """One kind of place for tokens. It keeps nothing between two calls, and threads may call it at once."""

    # The kind's name, which `TokenSpec.sink` holds.
    NAME: str
    # The option whose presence makes this the token's sink.
    MARKER: str
    # The options of a `[token]` section that only this sink reads.
    OPTIONS: tuple[Option, ...]

    @abstractmethod
    def settings(self, values: Mapping[str, Any]) -> Any:
        """The destination, with a `path` that no other token has; raises ValueError if options contradict."""

    @abstractmethod
    def read(self, spec: TokenSpec) -> Published:
        """What is published there now; never raises."""

    @abstractmethod
    def preflight(self, spec: TokenSpec) -> None:
        """Raises Local if publishing cannot succeed, so that no issuer is asked in vain."""

    @abstractmethod
    def publish(self, spec: TokenSpec, token: AccessToken) -> tuple[str, ...]:
        """Publishes the token atomically; returns warnings. Raises Local, and the old token then stays."""

    @abstractmethod
    def remove(self, spec: TokenSpec, published: Published) -> None:
        """Removes the token that was read as `published`; raises Local if it cannot, or if it has changed."""

    def sweep(self, specs: Sequence[TokenSpec]) -> None:  # noqa: ARG002
        """Removes what a killed run left when it published these tokens; never raises."""
        return
