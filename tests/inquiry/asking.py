"""The commands as a person gives them, without a shell: options in, printed lines out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factory import ROOT

WIDTH = 100
NO_RESULTS = Path(__file__).parent / "no_results"


class Asked:
    """One command of the group, at scale tiny or paper."""

    def __init__(
        self,
        options: Callable[[argparse.ArgumentParser], None],
        run: Callable[[argparse.Namespace], None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.parser = argparse.ArgumentParser()
        options(self.parser)
        self._run, self._capsys = run, capsys

    def __call__(self, *words: str, scale: str = "tiny", settings: tuple[str, ...] = ()) -> list[str]:
        """The printed lines; none is wider than a terminal, but for the paths of a test's folders."""
        self._run(self.parse(*words, scale=scale, settings=settings))
        lines = self._capsys.readouterr().out.splitlines()
        assert [line for line in lines if len(line) > WIDTH and "/" not in line] == []
        return lines

    def parse(self, *words: str, scale: str = "tiny", settings: tuple[str, ...] = ()) -> argparse.Namespace:
        # Results that there may be of a study in this checkout say more than one without them.
        study = ["--root", str(ROOT), "--config", f"scale={scale}", f"results={NO_RESULTS}", *settings]
        return self.parser.parse_args([*words, *study])
