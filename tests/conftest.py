"""For all tests: examples of hypothesis have no deadline, since machines that run tests are busy; and the files that
take longest come first, so that of several workers none is left with a long one at the end.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

LONGEST = (
    "tests/workflow/test_smoke_study.py",
    "tests/workflow/test_partial_reruns.py",
    "tests/workflow/test_reruns.py",
    "tests/pretrain/test_universal.py",
    "tests/test_launch.py",
    "tests/pretrain/test_loop.py",
    "tests/workflow/test_frozen_study.py",
    "tests/evaluate/test_cli_equality.py",
    "tests/workflow/test_failing_job.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(item.nodeid.partition("::")[0]))


def _place(file: str) -> int:
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)
