"""Integer arrays in .npy files: read memory-mapped and checked, written in place without holding them in memory."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError


def id_type(samples: int) -> type[np.integer[Any]]:
    """The type of a sample's number, by Megatron's rule."""
    return np.int64 if samples >= np.iinfo(np.uint32).max - 1 else np.uint32


def load_array(path: Path, shape: tuple[int | None, ...], kinds: str, remedy: str) -> NDArray[Any]:
    """A memory-mapped .npy of integers; refused unless of this shape (None: any) and of these kinds."""
    path = Path(path)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file; {remedy}") from None
    except (ValueError, OSError, EOFError) as error:
        raise DataeffError(f"{path}: not a numpy array ({error}); {remedy}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds or not values.dtype.isnative:
        raise DataeffError(f"{path}: not an array of integers; {remedy}")
    fits = [wanted in (None, found) for wanted, found in zip(shape, values.shape, strict=False)]
    if values.ndim != len(shape) or not all(fits):
        raise DataeffError(f"{path}: an array of shape {values.shape}; {shape} is needed; {remedy}")
    # A plain view: indexing a numpy.memmap object costs several times as much.
    return np.asarray(values)


def create_array(path: Path, shape: tuple[int, ...], dtype: type[np.integer[Any]]) -> NDArray[Any]:
    """A new .npy of zeros, memory-mapped for writing: the plain view that numpy's shuffle takes its fast path on."""
    if 0 in shape:  # a file without content cannot be mapped
        np.save(path, np.zeros(shape, dtype))
        return np.zeros(shape, dtype)
    return np.asarray(np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape))


def release(array: NDArray[Any]) -> None:
    """Gives the pages of a mapped array back to the system; it stays valid, and is read again when used."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None:
        base.madvise(mmap.MADV_DONTNEED)
