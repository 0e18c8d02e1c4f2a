"""The ends of files: as much as was asked for, from the start of a line, whatever a writer is just doing."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.monitor import reading
from dataeff.monitor.reading import last_lines, last_row_with, last_rows, look, tail


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10**9), max_size=60), st.integers(1, 400), st.booleans())
def test_last_rows_are_the_rows_that_fit(steps: list[int], limit: int, cut: bool) -> None:
    """Each whole row of the last bytes; a line that is not written to its end is none."""
    lines = [json.dumps({"step": step}) + "\n" for step in steps]
    text = "".join(lines) + ('{"step": 1' if cut else "")
    with TemporaryDirectory() as folder:
        path = Path(folder, "metrics.jsonl")
        path.write_text(text)
        end = text[max(0, len(text) - limit) :]
        whole = end if len(text) <= limit else end[end.find("\n") + 1 :]
        assert last_rows(path, limit) == [json.loads(line) for line in whole.split("\n") if line.endswith("}")]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=80), st.integers(1, 300))
def test_the_last_row_with_a_key_is_found_across_blocks(measured: list[bool], block: int) -> None:
    rows = [{"step": step, **({"heldout_loss": step / 7} if has else {})} for step, has in enumerate(measured)]
    with TemporaryDirectory() as folder:
        path = Path(folder, "metrics.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        before, reading._BLOCK_BYTES = reading._BLOCK_BYTES, block
        try:
            found = last_row_with(path, "heldout_loss")
        finally:
            reading._BLOCK_BYTES = before
    assert found == next((row for row in reversed(rows) if "heldout_loss" in row), None)


def test_a_search_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "heldout_loss": 2.0}\n' + '{"step": 2, "loss": 3.0}\n' * 1000)
    assert last_row_with(path, "heldout_loss", limit=5000) is None
    assert last_row_with(path, "heldout_loss") == {"step": 1, "heldout_loss": 2.0}


def test_files_that_are_not_there_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "none" / "log"
    assert (tail(path), last_lines(path, 3), last_rows(path), last_row_with(path, "step"), look(path)) == (
        b"",
        [],
        [],
        None,
        None,
    )


def test_last_lines_leave_out_empty_ones(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\n\n  \ntwo\rthree\n\n")
    assert last_lines(log, 2) == ["two", "three"]
