"""Failures of the machine in words: memory that is out, a disk that is full, a lost rank.

Each becomes a DataeffError that says what to do; every other error keeps its traceback.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataeff.errors import DataeffError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How compiled writers (torch's, safetensors') say the same: without a number.
_FULL_TEXTS = (
    "PytorchStreamWriter failed",
    "unexpected pos",
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
)
_MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory")
_LOST_TEXTS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
_LOWEST_SCALE = "loss scale already at minimum"


class OutOfMemory(DataeffError):
    """More memory was asked for than there is."""


@contextmanager
def explained(
    name: str, state: Path, micro_batch: Callable[[], int], needed_bytes: Callable[[], int]
) -> Iterator[None]:
    """Failures inside are told as a person needs them. `name`: the run's; `state`: its folder; the other two say, when
    asked, how many rows a pass takes and how many bytes a checkpoint does.
    """
    try:
        yield
    except DataeffError:
        raise
    except Exception as error:
        if is_full_disk(error):
            raise full_disk(name, state, needed_bytes()) from error
        if is_out_of_memory(error):
            raise out_of_memory(name, micro_batch()) from error
        if isinstance(error, RuntimeError) and _tells(error, _LOST_TEXTS):
            raise DataeffError(f"{name}: another rank has ended; what it said tells why") from error
        if _tells(error, (_LOWEST_SCALE,)):
            raise DataeffError(
                f"{name}: gradients overflow fp16 at every loss scale; set precision: bf16, or lower learning_rate.peak"
            ) from error
        raise


def _tells(error: Exception, texts: Sequence[str]) -> bool:
    return any(text in str(error) for text in texts)


def is_full_disk(error: Exception) -> bool:
    return (isinstance(error, OSError) and error.errno in _FULL) or _tells(error, _FULL_TEXTS)


def is_out_of_memory(error: Exception) -> bool:
    """torch's own error of a graphics card is a RuntimeError, too."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _tells(error, _MEMORY_TEXTS))


def full_disk(name: str, state: Path, needed_bytes: int) -> DataeffError:
    free = shutil.disk_usage(state if state.exists() else state.parent).free
    return DataeffError(
        f"{name}: {state} could not be written: a checkpoint takes about {needed_bytes:,} bytes and {free:,} are free "
        f"(a quota may allow less); make room, then start again: the checkpoints before stand"
    )


def out_of_memory(name: str, micro_batch: int) -> OutOfMemory:
    if micro_batch == 1:
        remedy = "activation_checkpointing: true or a higher zero_stage takes less than one row at a time does now"
    else:
        remedy = f"set micro_batch: {micro_batch // 2} (or auto, which finds what fits); the plan and results stay"
    return OutOfMemory(f"{name}: out of memory with micro_batch: {micro_batch}; {remedy}")
