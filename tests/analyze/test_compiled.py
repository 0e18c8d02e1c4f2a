"""Kernels that are kept between two processes: the same results, and nothing where nothing can be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import resource, sys
from pathlib import Path
from dataeff.analyze import text_metrics
from dataeff.analyze.compiled import keep_compiled
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
print(keep_compiled(Path(sys.argv[1])), text_metrics.mtld("to be or not to be that is the question"))
print(sum(text_metrics._factors.stats.cache_hits.values()))
"""


def run(cache: Path, disk: str = "with room") -> list[str]:
    found = subprocess.run([sys.executable, "-c", PROGRAM, cache, disk], capture_output=True, text=True, check=True)
    return found.stdout.split()


def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, second = run(tmp_path), run(tmp_path)
    assert first[0] == second[0] == "True"
    assert first[1] == second[1]
    assert int(first[2]) == 0 < int(second[2])
    assert len(list((tmp_path / "compiled").iterdir())) == 1


def test_a_full_disk_is_no_fault(tmp_path: Path) -> None:
    assert run(tmp_path, "full")[0] == "False"
    assert not list(tmp_path.rglob("*.nbi"))


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert run(tmp_path / "cache")[0] == "False"


ORDER = """
import sys
from pathlib import Path
import numpy as np
from dataeff import order_draws
from dataeff.analyze.compiled import keep_compiled
from dataeff.order import SampleOrder
keep_compiled(Path(sys.argv[1]))
order = SampleOrder.build(seed=1, batch_size=4, pool_sizes=np.array([5, 9, 9]), admission=None)
print(np.concatenate(list(order.iterate())).tolist())
print(sum(order_draws._draw_positions.stats.cache_hits.values()))
"""


def test_the_order_of_samples_is_kept_too(tmp_path: Path) -> None:
    """It is drawn at the start of every run."""
    command = [sys.executable, "-c", ORDER, str(tmp_path)]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines() for _ in range(2)]
    assert found[0][0] == found[1][0]
    assert [lines[1] for lines in found] == ["0", "1"]
