"""Failures of the machine, real ones, and what is said of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from dataeff.errors import DataeffError
from dataeff.pretrain.remedies import OutOfMemory, explained


def fail(state: Path, error: Exception | None, micro_batch: int = 8) -> None:
    with explained("a-run", state, lambda: micro_batch, lambda: 5_000_000):
        if error is None:
            torch.empty(2**50, dtype=torch.uint8)
        else:
            raise error


def test_memory_that_torch_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="a-run: out of memory with micro_batch: 8; set micro_batch: 4 "):
        fail(tmp_path, None)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_a_row_is_the_least(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OutOfMemory, match=r"micro_batch: 1; activation_checkpointing: true or a higher zero_stage"):
        fail(tmp_path, error, micro_batch=1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(tmp_path: Path, number: int) -> None:
    state = tmp_path / "state"
    said = rf"a-run: {state} could not be written: a checkpoint takes about 5,000,000 bytes and [\d,]+ are free"
    with pytest.raises(DataeffError, match=said):
        fail(state, OSError(number, os.strerror(number)))


def test_torch_s_writer_on_a_full_disk(tmp_path: Path) -> None:
    """It says neither which file nor that the disk is full."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with (
        pytest.raises(DataeffError, match="could not be written"),
        explained("a-run", tmp_path, lambda: 1, lambda: 1),
    ):
        torch.save(torch.zeros(1_000_000), "/dev/full")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for error in (RuntimeError("shapes differ"), OSError(errno.ENOENT, "x"), DataeffError("said"), KeyError("a")):
        with pytest.raises(type(error)) as raised:
            fail(tmp_path, error)
        assert raised.value is error
