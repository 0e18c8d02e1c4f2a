"""Files that change under a training."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from dataeff.errors import DataeffError
from dataeff.pretrain.input_files import CHECKED_A_STEP, InputFiles


def test_all_files_are_looked_at_in_turn(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:03d}" for number in range(2 * CHECKED_A_STEP + 1)]
    for path in paths:
        path.write_bytes(b"12")
    files = InputFiles.of([tmp_path], [])
    files.check()
    paths[-1].write_bytes(b"1")
    files.check()
    with pytest.raises(
        DataeffError, match=rf"{paths[-1]}: has 1 bytes, at the start of training it had 2; put it back"
    ):
        files.check()


def test_a_file_that_vanished(tmp_path: Path) -> None:
    for ending in (".bin", ".idx"):
        (tmp_path / f"00{ending}").write_bytes(b"1")
    files = InputFiles.of([], [tmp_path / "00"])
    files.check()
    (tmp_path / "00.idx").unlink()
    with pytest.raises(DataeffError, match=r"00\.idx: vanished during training"):
        files.check()


def read_while_it_is_cut(path: Path, cut: Path, said: Path) -> None:
    with said.open("wb") as stream:
        os.dup2(stream.fileno(), 2)
    mapped = np.memmap(path, np.uint8, "r")
    unwatched = np.memmap(cut, np.uint8, "r")
    with InputFiles([path]).named_where_cut():
        os.truncate(cut, 1)
        int(mapped.sum()) + int(unwatched.sum())


@pytest.mark.parametrize(("cut", "code"), [("watched", 1), ("another", -signal.SIGBUS)])
def test_a_read_of_what_was_cut_off_names_the_file(tmp_path: Path, cut: str, code: int) -> None:
    """What is no file of the training's ends it as it would have done."""
    for name in ("watched", "another"):
        (tmp_path / name).write_bytes(bytes(100_000))
    arguments = (tmp_path / "watched", tmp_path / cut, tmp_path / "said")
    process = multiprocessing.get_context("spawn").Process(target=read_while_it_is_cut, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == code
    told = f"dataeff: error: {tmp_path / 'watched'}: has 1 bytes, at the start of training it had 100,000; put it back"
    assert (told in (tmp_path / "said").read_text()) == (code == 1)


def test_the_handler_before_is_put_back(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=read_afterwards, args=(tmp_path / "file",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGBUS


def read_afterwards(path: Path) -> None:
    path.write_bytes(bytes(100_000))
    mapped = np.memmap(path, np.uint8, "r")
    with InputFiles([path]).named_where_cut():
        pass
    os.truncate(path, 1)
    mapped.sum()
