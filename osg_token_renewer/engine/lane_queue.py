"""The lanes that wait for a worker."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Optional

from osg_token_renewer.engine.issuers import Issuer
from osg_token_renewer.engine.lane import Lane
from osg_token_renewer.engine.limits import GLANCE, Limits
from osg_token_renewer.sources.registry import SOURCES

# How many accounts with a refresh token may use an issuer that has not answered in this run yet. If it never
# answers, all of them may be lost.
AT_RISK = 6


class LaneQueue:
    """The lanes in their order. Those that could lose their account begin only a few at a time, until their
    issuer has answered; lanes of other issuers overtake them."""

    def __init__(self, lanes: Sequence[Lane], limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        # By issuer, so that finding the next lane is fast however many wait. Each lane has its place in the
        # whole order. None: lanes that risk nothing.
        self._waiting: dict[Optional[Issuer], deque[tuple[int, Lane]]] = {}
        self._at_risk: Counter[Optional[Issuer]] = Counter()
        for place, lane in enumerate(lanes):
            self._waiting.setdefault(_risked_by(lane), deque()).append((place, lane))

    def next(self) -> Optional[Lane]:
        """Waits until a lane may begin; returns None if none is left."""
        with self._changed:
            while self._waiting:
                ready = [issuer for issuer in self._waiting if self._may(issuer)]
                if not ready:
                    self._changed.wait(GLANCE)
                    continue
                issuer = min(ready, key=lambda each: self._waiting[each][0][0])
                _, lane = self._waiting[issuer].popleft()
                if not self._waiting[issuer]:
                    del self._waiting[issuer]
                self._at_risk[issuer] += 1
                return lane
        return None

    def remove(self, lane: Lane) -> None:
        """The lane has ended. If it may have lost its account, it counts on."""
        with self._changed:
            self._at_risk[_risked_by(lane)] -= not lane.at_risk
            self._changed.notify_all()

    def _may(self, issuer: Optional[Issuer]) -> bool:
        """Whether a lane of this issuer may begin. If it will only be refused, it may."""
        if issuer is None or self._at_risk[issuer] < AT_RISK:
            return True
        return issuer.tokens > 0 or issuer.is_dead() or self._limits.over()


def _risked_by(lane: Lane) -> Optional[Issuer]:
    return None if SOURCES[lane.account.source].OVERLAPS else lane.issuer
