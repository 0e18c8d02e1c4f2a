"""The layout of a .bin/.idx pair: its names, its header, and the codes for the type of a token.

An .idx is: magic, version, a code for the type of a token, number of sequences, number of document entries, then
per sequence its size in tokens (int32) and its byte offset in the .bin (int64), then the document entries (int64):
document d is the sequences from entry d up to entry d + 1. A .bin is the tokens and nothing else.

Megatron and DeepSpeed's copy of its class gave three codes different meanings: 6, 7 and 8 are float64, float32 and
uint16 in Megatron, and uint16, uint32 and uint64 in DeepSpeed.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dataeff.errors import DataeffError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct(f"<{len(MAGIC)}sQBQQ")
UINT16_VOCABULARY_LIMIT = 65_500

Codes = Literal["megatron", "deepspeed"]
WRITE_CODES: dict[Codes, dict[np.dtype[Any], int]] = {
    "megatron": {
        np.dtype(np.uint8): 1,
        np.dtype(np.int8): 2,
        np.dtype(np.int16): 3,
        np.dtype(np.int32): 4,
        np.dtype(np.int64): 5,
        np.dtype(np.uint16): 8,
    },
    "deepspeed": {
        np.dtype(np.uint8): 1,
        np.dtype(np.int8): 2,
        np.dtype(np.int16): 3,
        np.dtype(np.int32): 4,
        np.dtype(np.int64): 5,
        np.dtype(np.uint16): 6,
        np.dtype(np.uint32): 7,
        np.dtype(np.uint64): 8,
    },
}
# Code -> the integer types that one of the two writers means by it; Megatron's first.
TYPES: dict[int, tuple[np.dtype[Any], ...]] = {
    code: tuple(
        dict.fromkeys(dtype for table in WRITE_CODES.values() for dtype, known in table.items() if known == code)
    )
    for code in range(1, 9)
}


def bin_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".idx")


def facts_path(prefix: Path) -> Path:
    """Where `dataeff tokens encode` tells what it counted in the shard."""
    return prefix.with_name(prefix.name + ".json")


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The type that Megatron stores tokens of this vocabulary in."""
    return np.dtype(np.uint16 if vocab_size < UINT16_VOCABULARY_LIMIT else np.int32)


def type_code(prefix: Path, dtype: np.dtype[Any], codes: Codes) -> int:
    try:
        return WRITE_CODES[codes][dtype]
    except KeyError:
        known = ", ".join(str(option) for option in WRITE_CODES[codes])
        raise DataeffError(
            f"{idx_path(prefix)}: the format has no code for {dtype} in its form for {codes}; use one of {known}"
        ) from None
