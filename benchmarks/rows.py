"""The rows of the table in README.md: a function each. It measures, and raises Broken if something did not
work."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.agents import agent, agent_rotating
from benchmarks.credentials import connections, credentials, memory, requests
from benchmarks.day import day
from benchmarks.dead_issuer import dead_issuer
from benchmarks.figures import Result
from benchmarks.fresh import few_due, growth, nothing_due
from benchmarks.world import World

Row = Callable[[World], Result]

ROWS: dict[str, Row] = {
    "agent": agent,
    "agent-rotating": agent_rotating,
    "credentials": credentials,
    "nothing-due": nothing_due,
    "growth": growth,
    "few-due": few_due,
    "memory": memory,
    "requests": requests,
    "connections": connections,
    "dead-issuer": dead_issuer,
    "day": day,
}
