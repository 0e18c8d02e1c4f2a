"""The files that a run has mapped into memory, watched while it trains.

What is cut off a mapped file makes reading it a SIGBUS, which ends a process without a word. So their sizes are looked
at before each step; and where a file is cut during a step's reading, a handler of that signal names it.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataeff.errors import DataeffError

CHECKED_A_STEP = 64
_DEFAULT = 0


class InputFiles:
    """The files and the sizes that they had at the start of training."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._sizes = {path: path.stat().st_size for path in paths}
        self._paths = list(self._sizes)
        self._next = 0

    @classmethod
    def of(cls, folders: Sequence[Path], prefixes: Sequence[Path]) -> InputFiles:
        """All files of the folders, and the pairs of token files."""
        found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
        pairs = [prefix.with_name(prefix.name + ending) for prefix in prefixes for ending in (".bin", ".idx")]
        return cls([*found, *pairs])

    def check(self) -> None:
        """Looks at the sizes of some files, all in turn: a step has no time for those of a thousand shards."""
        for _ in range(min(CHECKED_A_STEP, len(self._paths))):
            self._check(self._paths[self._next])
            self._next = (self._next + 1) % len(self._paths)

    def _check(self, path: Path) -> None:
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise DataeffError(f"{path}: vanished during training; put it back, then start again") from None
        if size != self._sizes[path]:
            raise DataeffError(
                f"{path}: has {size:,} bytes, at the start of training it had {self._sizes[path]:,}; put it back as it "
                f"was, then start again"
            )

    @contextmanager
    def named_where_cut(self) -> Iterator[None]:
        """Inside, reading what is no longer in a file ends the process with exit code 1 and says which file that is.

        The signal comes from a read in compiled code and comes again once its handler returns: one of Python's own
        would never run, so this one is the C library's.
        """
        library = ctypes.CDLL(None)
        library.signal.restype = ctypes.c_void_p
        library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)

        def tell(number: int) -> None:
            # If none of the files is the cause, the read is repeated, and ends the process as it would have done.
            library.signal(number, _DEFAULT)
            try:
                for path in self._paths:
                    self._check(path)
            except DataeffError as error:
                os.write(2, f"\ndataeff: error: {error}\n".encode())
                os._exit(1)

        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(tell)
        before = library.signal(signal.SIGBUS, ctypes.cast(handler, ctypes.c_void_p))
        try:
            yield
        finally:
            library.signal(signal.SIGBUS, before)
