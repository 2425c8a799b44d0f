"""How it is timed: interleaved, after a pause and an untimed call, many times.

OpenMP and OpenBLAS workers keep spinning for a while after a call and would spoil the next
measurement: hence the pause. The untimed call compiles, loads, and fills caches with this
contestant's own arrays. Contestants take turns, so what disturbs one disturbs all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

PAUSE = 0.01  # seconds
ROUNDS = 11
PROTOCOL = f"each call: {PAUSE * 1000:g} ms pause, one untimed call, one timed; contestants in turn"


def take_turns(
    calls: Mapping[Any, Callable[[], Any]],
    rounds: int,
    times: dict[Any, list[float]],
    tick: Callable[[], Any] = lambda: None,
) -> None:
    """Append each contestant's seconds to its list in `times`, one a round.

    Results are dropped inside the timed call, as a training drops them: who makes fresh arrays pays
    for giving them back. `times` is the caller's, who has what was measured if this is interrupted.
    """
    for _ in range(rounds):
        for key, call in calls.items():
            time.sleep(PAUSE)
            call()
            start = time.perf_counter()
            call()
            times.setdefault(key, []).append(time.perf_counter() - start)
            tick()
