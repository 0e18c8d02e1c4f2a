"""What a benchmark says of a process is about that process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.common import run_process

HELD = 400_000_000


def test_a_process_is_measured_without_the_one_that_started_it(tmp_path: Path) -> None:
    held = bytes(1) * HELD
    small = run_process([sys.executable, "-c", "open('here', 'w')"], tmp_path)
    assert (tmp_path / "here").exists()
    assert small.peak_bytes < len(held) / 4
    large = run_process([sys.executable, "-c", f"held = bytes(1) * {HELD}"])
    assert HELD < large.peak_bytes < 1.5 * HELD
    assert large.processor_seconds > 0
    assert run_process([sys.executable, "-c", "import time; time.sleep(0.3)"]).seconds >= 0.3


def test_a_failure_shows_what_was_printed() -> None:
    with pytest.raises(SystemExit, match=r"(?s)failed.*the reason"):
        run_process([sys.executable, "-c", "raise RuntimeError('the reason')"])
