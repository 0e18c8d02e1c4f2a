"""Names the rank that does not come, and ends the run: a rank that hangs would have the others wait without a word.

Each rank says where it is (a step and what of it) before it goes there, and a thread looks how long ago that was. After
`timeout_seconds` without progress it calls the roll through the store that all ranks share, whose threads answer at
once, with their place. Who does not answer is stopped or cut off; who is at an earlier place than the others is what
they wait for. Either is named, ended if it runs on this host (a stopped process would keep the run's lock), and the run
ends; its checkpoints stand. Where all are at one place nobody is to blame, and the wait goes on.

Nothing of this is part of a step: no collective, and no word between ranks until one waits too long.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataeff.pretrain.engine import Ranks

PHASES = ("reading its samples", "training", "measuring held-out text", "saving a checkpoint", "writing the model")
MOST_ANSWER_SECONDS = 15.0
LOOK_SECONDS = 0.5


@dataclass(frozen=True, order=True)
class Place:
    """Where a rank is: a step, from 1, and which of PHASES."""

    step: int
    phase: int

    def __str__(self) -> str:
        return f"{PHASES[self.phase]} at step {self.step}"


@dataclass(frozen=True)
class Process:
    host: str
    pid: int


def verdict(places: Mapping[int, Place | None], seconds: float) -> tuple[str, list[int]] | None:
    """What is wrong, and with which ranks, by where each rank is (None: no answer); None if nobody is behind."""
    silent = [rank for rank, place in places.items() if place is None]
    if silent:
        return f"{_named(silent)} did not answer for {seconds:.0f} seconds: stopped, cut off or dead", silent
    known = {rank: place for rank, place in places.items() if place is not None}
    furthest = max(known.values())
    behind = [rank for rank, place in known.items() if place < furthest]
    if not behind:
        return None
    where = "; ".join(f"rank {rank} is still {known[rank]}" for rank in behind)
    return f"{_named(behind)} did not come for {seconds:.0f} seconds: {where}, others wait {furthest}", behind


def _named(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


class Watch:
    """One rank's part of it."""

    def __init__(self, ranks: Ranks, timeout_seconds: float, name: str) -> None:
        """`name`: the run's, for what is said."""
        self._ranks, self._timeout, self._name = ranks, timeout_seconds, name
        self._place, self._since = Place(0, 0), time.monotonic()
        self._answered = 0
        self._over = threading.Event()

    def reach(self, step: int, phase: str) -> None:
        """Says that this rank is now at this phase of this step."""
        self._place, self._since = Place(step, PHASES.index(phase)), time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches while the block runs; a single rank waits for nobody."""
        if self._ranks.world_size == 1:
            yield
            return
        process = Process(socket.gethostname(), os.getpid())
        self._ranks.store.set(f"process/{self._ranks.rank}", json.dumps(asdict(process)))
        self._since = time.monotonic()
        thread = threading.Thread(target=self._look, name="watch of ranks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _look(self) -> None:
        while not self._over.wait(min(LOOK_SECONDS, self._timeout / 4)):
            if self._ranks.store.add("verdicts", 0):
                os._exit(1)  # another rank has said why
            self._answer_calls()
            if time.monotonic() - self._since > self._timeout:
                self._call_the_roll()

    def _answer_calls(self) -> None:
        calls = self._ranks.store.add("calls", 0)
        for call in range(self._answered + 1, calls + 1):
            self._ranks.store.set(f"answer/{call}/{self._ranks.rank}", json.dumps(asdict(self._place)))
        self._answered = calls

    def _call_the_roll(self) -> None:
        waiting_since, store = self._since, self._ranks.store
        call = store.add("calls", 1)
        keys = {rank: f"answer/{call}/{rank}" for rank in range(self._ranks.world_size)}
        deadline = time.monotonic() + min(MOST_ANSWER_SECONDS, self._timeout)
        while time.monotonic() < deadline and not store.check(list(keys.values())):
            self._answer_calls()  # others may call at the same time
            if self._over.wait(0.1) or self._since != waiting_since:
                return  # it went on meanwhile
        places = {
            rank: Place(**json.loads(store.get(key))) if store.check([key]) else None for rank, key in keys.items()
        }
        found = verdict(places, time.monotonic() - waiting_since)
        if found is None:
            self._since = time.monotonic()
            if self._ranks.rank == 0:
                print(
                    f"{self._name}: no progress for {self._timeout:.0f} seconds; every rank is {self._place}",
                    flush=True,
                )
            return
        if self._since == waiting_since:
            self._end(*found)

    def _end(self, what: str, ranks: list[int]) -> None:
        """Ends this rank, once it has said why and the others had time to see that it did."""
        if self._ranks.store.add("verdicts", 1) == 1:
            print(
                f"dataeff: error: {self._name}: {what}. The run ends; what it saved stands, and the same command "
                f"continues it (timeout_seconds: {self._timeout:.0f})",
                file=sys.stderr,
                flush=True,
            )
            for rank in ranks:
                if rank != self._ranks.rank:
                    self._kill(rank)
            time.sleep(4 * LOOK_SECONDS)
        os._exit(1)

    def _kill(self, rank: int) -> None:
        key = f"process/{rank}"
        if not self._ranks.store.check([key]):
            return
        process = Process(**json.loads(self._ranks.store.get(key)))
        if process.host == socket.gethostname():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
