"""A worker process of the standalone analysis: computes the parts it is sent, one at a time, until its input ends.

A line of JSON in says what to compute, a line of JSON out that it is done, or what is wrong with the data. It is a
program of its own and not of multiprocessing, which would run the user's script a second time; it ends by itself when
whoever sent it work is gone; and what it has compiled it keeps from part to part.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dataeff.analyze.compiled import keep_compiled
from dataeff.analyze.map import count_part, map_part
from dataeff.errors import DataeffError
from dataeff.samples import SpecialIds
from dataeff.study.types import FREQUENCY


@dataclass(frozen=True, slots=True)
class Task:
    """One part of one metric; paths as text, since it goes through JSON. `bins`: of the frequencies only."""

    metric: str
    part: int
    parts: int
    samples: str
    tokens: Sequence[str]
    out: str
    special: Mapping[str, int] | None = None
    bins: int = 0
    frequency: str | None = None
    tokenizer: str | None = None

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @property
    def name(self) -> str:
        return f"part {self.part} of {self.parts} of {self.metric}"


def compute(task: Task) -> None:
    """Writes the part to its folder, unless it is there already."""
    samples, tokens, out = Path(task.samples), [Path(prefix) for prefix in task.tokens], Path(task.out)
    special = None if task.special is None else SpecialIds(**task.special)
    if task.metric == FREQUENCY:
        count_part(samples, tokens, task.bins, task.part, task.parts, out, special=special, threads=1)
        return
    frequency, tokenizer = (Path(path) if path else None for path in (task.frequency, task.tokenizer))
    map_part(
        task.metric,
        samples,
        tokens,
        task.part,
        task.parts,
        out,
        frequency=frequency,
        tokenizer=tokenizer,
        special=special,
        threads=1,
    )


def main() -> None:
    # An interrupt from the keyboard reaches the whole group; the sender of the work ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_compiled()
    with os.fdopen(os.dup(1), "w", buffering=1) as answers, Path(os.devnull).open("w") as nowhere:
        # The parts' own lines of progress are not for the reader of the answers, who sums up all parts.
        sys.stdout = nowhere
        for line in sys.stdin:
            try:
                compute(Task(**json.loads(line)))
                fault = {}
            except DataeffError as error:
                fault = {"error": str(error)}
            try:
                answers.write(json.dumps(fault) + "\n")
            except BrokenPipeError:
                # The sender is gone; what is left in the buffer has no reader.
                os._exit(1)


if __name__ == "__main__":
    main()
