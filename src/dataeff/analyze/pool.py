"""Several worker processes and the parts they compute: who works on what, how far all of it is, and who has died.

A worker has one part at a time, so that one that is killed (memory, a person, a node) is known with its part.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import dataeff
from dataeff.analyze.worker import Task
from dataeff.errors import DataeffError
from dataeff.progress import Progress

_GO_ON = "the parts that are done are kept: run the same command again"


class Pool:
    """Workers that start at once and stay until the end, with what they have loaded and compiled."""

    def __init__(self, workers: int) -> None:
        self._workers = [_Worker() for _ in range(workers)]

    @classmethod
    @contextmanager
    def of(cls, workers: int) -> Iterator[Pool]:
        pool = cls(workers)
        try:
            yield pool
        finally:
            for worker in pool._workers:
                worker.end()

    def run(self, name: str, tasks: Sequence[tuple[Task, int]]) -> None:
        """Computes all tasks (with the number of samples of each); stops at the first that fails."""
        waiting = list(reversed(tasks))
        progress = Progress(name, sum(samples for _, samples in tasks), "samples")
        done = 0
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if waiting:
                    worker.start(*waiting.pop())
                    selector.register(worker.answers, selectors.EVENT_READ, worker)
            while selector.get_map():
                for key, _ in selector.select():
                    worker = key.data
                    done += worker.finish()
                    progress.show(done)
                    if waiting:
                        worker.start(*waiting.pop())
                    else:
                        selector.unregister(worker.answers)


def _search_path() -> str:
    """Where a worker finds this very package, however it was found here; not in the folder it is started in (-P), where
    files may have the names of modules.
    """
    root = Path(str(dataeff.__file__)).parents[1]
    return os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))


class _Worker:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dataeff.analyze.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": _search_path()},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._tasks, self.answers = self._process.stdin, self._process.stdout
        self._task: Task | None = None
        self._samples = 0

    def start(self, task: Task, samples: int) -> None:
        self._task, self._samples = task, samples
        # A worker that is gone gives no answer: that tells how it ended.
        with suppress(BrokenPipeError):
            self._tasks.write(task.line())
            self._tasks.flush()

    def finish(self) -> int:
        """Waits for the answer; the number of samples that are done with it."""
        assert self._task is not None
        answer = self.answers.readline()
        if not answer:
            raise DataeffError(f"{self._task.name}: its worker process {self._process.pid} {self._death()}")
        fault = json.loads(answer).get("error")
        if fault is not None:
            raise DataeffError(f"{fault} ({self._task.name})")
        return self._samples

    def _death(self) -> str:
        status = self._process.wait()
        if status < 0:
            return (
                f"was ended by {signal.Signals(-status).name} (the system does so when memory runs out); {_GO_ON}, "
                f"with fewer --workers if it was memory"
            )
        return f"ended with status {status}, see its message above; {_GO_ON}"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):
            self._tasks.close()
        self.answers.close()
