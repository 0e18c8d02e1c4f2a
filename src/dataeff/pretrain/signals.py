"""Requests to stop: SIGTERM (preemption), SIGINT (Ctrl-C) and SIGUSR1 (a scheduler's warning) end a run resumable.

The first one lets the step under way end and be saved; before training begins there is nothing to save, and the
process ends at once. Signals of one event may come twice, from a scheduler to every process and from the launcher to
its ranks, so what follows within two seconds is the same request. A later one is a second request: it ends at once.

A thread reads the signals from a pipe that the kernel's handler writes to: Python's own handlers wait until the main
thread is back from compiled code, which may be a wait for another rank.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = os.EX_TEMPFAIL
"""75: stopped by a signal, and the same command continues the run."""
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SAME_REQUEST_SECONDS = 2.0


class Interrupted(SystemExit):
    """Ends the process with EXIT_INTERRUPTED."""

    def __init__(self) -> None:
        super().__init__(EXIT_INTERRUPTED)


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self, name: str) -> None:
        """`name`: the run's, for what is said."""
        self._name = name
        self._training = False
        self._asked_at = 0.0
        self.signal_name: str | None = None

    @property
    def asked(self) -> bool:
        return self.signal_name is not None

    def training_begins(self) -> None:
        """From now on there is something to save: the loop looks at `asked` after every step."""
        self._training = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over, in the main thread; the handlers before are put back at the end."""
        ours, written_to = socket.socketpair()
        written_to.setblocking(False)
        handlers = {number: signal.signal(number, _leave_to_the_thread) for number in STOPPING}
        descriptor = signal.set_wakeup_fd(written_to.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, args=(ours,), name="stop requests", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            written_to.close()
            thread.join()
            ours.close()

    def _listen(self, pipe: socket.socket) -> None:
        while numbers := pipe.recv(64):
            for number in numbers:
                if number in STOPPING:
                    self._note(signal.Signals(number))

    def _note(self, received: signal.Signals) -> None:
        now = time.monotonic()
        if self.asked and now - self._asked_at > SAME_REQUEST_SECONDS:
            os._exit(128 + received)
        if not self.asked:
            self._asked_at, self.signal_name = now, received.name
            if not self._training:
                print(f"{self._name}: {received.name} before the first step: nothing to save", flush=True)
                os._exit(EXIT_INTERRUPTED)


def _leave_to_the_thread(number: int, frame: FrameType | None) -> None:
    """A handler of Python's has to be there for the pipe to be written to."""
