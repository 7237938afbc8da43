"""The lanes that wait for a worker."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Optional

from osg_token_renewer.engine.attempts import AT_RISK, GLANCE, Issuer, Limits
from osg_token_renewer.engine.lane import Lane
from osg_token_renewer.sources.registry import SOURCES


class LaneQueue:
    """The lanes that wait for a worker, in their order. Those that may lose their account, if its issuer
    never answers, are let pass a few at a time until it has answered; others pass them by."""

    def __init__(self, lanes: Sequence[Lane], limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        # By issuer, each with its place: to find the next takes no longer the more of them wait. None: of
        # those who risk nothing.
        self._waiting: dict[Optional[Issuer], deque[tuple[int, Lane]]] = {}
        self._at_risk: Counter[Optional[Issuer]] = Counter()
        self._issuers = {
            lane: None if SOURCES[lane.account.source].OVERLAPS else limits.of_all_like(lane.account)
            for lane in lanes
        }
        for place, lane in enumerate(lanes):
            self._waiting.setdefault(self._issuers[lane], deque()).append((place, lane))

    def next(self) -> Optional[Lane]:
        """Waits while none may begin; None when there is none left."""
        with self._changed:
            while self._waiting:
                ready = [
                    (lanes[0][0], issuer)
                    for issuer, lanes in self._waiting.items()
                    if self._may_begin(issuer)
                ]
                if not ready:
                    self._changed.wait(GLANCE)
                    continue
                _, issuer = min(ready, key=lambda each: each[0])
                _, lane = self._waiting[issuer].popleft()
                if not self._waiting[issuer]:
                    del self._waiting[issuer]
                self._at_risk[issuer] += 1
                return lane
        return None

    def gone(self, lane: Lane) -> None:
        with self._changed:
            # One that may be lost counts on.
            self._at_risk[self._issuers[lane]] -= not lane.cut_off
            self._changed.notify_all()

    def _may_begin(self, issuer: Optional[Issuer]) -> bool:
        if issuer is None or self._at_risk[issuer] < AT_RISK:
            return True
        # What is to be refused may be so at once.
        return issuer.answers > 0 or issuer.is_dead() or self._limits.over()
