"""The commands as a person gives them, without a shell: options in, printed lines out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.factory import ROOT

WIDTH = 100
# A corpus and tokenizer by the names that the paper scales use; nothing of them is read.
_FETCH = {"kind": "npm", "package": "p", "version": "1.0.0", "file": "f.tgz", "sha256": "0" * 64, "bytes": 1}
NAMED = {
    "corpora": {"pile": {"about": "by name only", "sources": ["big_txt"]}},
    "tokenizers": {"bert": {"kind": "bert", "licence": "none", "fetch": _FETCH}},
}


class Asked:
    """One command of the group, at scale tiny or paper."""

    def __init__(
        self,
        options: Callable[[argparse.ArgumentParser], None],
        run: Callable[[argparse.Namespace], None],
        folder: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.parser = argparse.ArgumentParser()
        options(self.parser)
        self._run, self._capsys = run, capsys
        self.named = folder / "named.yaml"
        self.named.write_text(yaml.safe_dump(NAMED))

    def __call__(self, *words: str, scale: str = "tiny", settings: tuple[str, ...] = ()) -> list[str]:
        """The printed lines; none is wider than a terminal, but for the paths of a test's folders."""
        self._run(self.parse(*words, scale=scale, settings=settings))
        lines = self._capsys.readouterr().out.splitlines()
        assert [line for line in lines if len(line) > WIDTH and "/" not in line] == []
        return lines

    def parse(self, *words: str, scale: str = "tiny", settings: tuple[str, ...] = ()) -> argparse.Namespace:
        study = ["--root", str(ROOT), "--configfile", str(self.named), "--config", f"scale={scale}", *settings]
        return self.parser.parse_args([*words, *study])
