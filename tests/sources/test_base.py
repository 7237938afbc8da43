"""What sessions share: made once, in whichever thread, and closed at the end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from osg_token_renewer.sources.base import Kept
from tests.host import LONGEST

THREADS = 8


def test_all_threads_get_the_same_which_is_closed_at_the_end() -> None:
    together = threading.Barrier(THREADS)
    closed = []

    class Shared(AbstractContextManager["Shared"]):
        def __exit__(self, *error: object) -> None:
            closed.append(self)

    def get(kept: Kept) -> Shared:
        together.wait(LONGEST)
        return kept.get(Shared)

    with Kept() as kept, ThreadPoolExecutor(THREADS) as threads:
        got = set(threads.map(get, [kept] * THREADS))
        assert closed == []
    assert len(got) == 1
    assert closed == list(got)
