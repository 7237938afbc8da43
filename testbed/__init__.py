"""A real OpenID provider on loopback for the demo, the tests and the benchmarks."""

from __future__ import annotations

from testbed.issuer import Client, Counts, Issuer, TestbedError
from testbed.user import UnexpectedPage, approve, deny

__all__ = ["Client", "Counts", "Issuer", "TestbedError", "UnexpectedPage", "approve", "deny"]
