"""The reduce at the Pile's scale: generated metric values of N samples to the difficulty index, out of core.

`python bench/reduce.py [--samples N] [--metric seqlen_vocab_rarity]`: 173 million samples are the Pile cut into windows
of 2,048 tokens. Values are written to disk as the map leaves them, in 16 parts; then the command reduces them as a
process of its own, whose time and peak resident memory are printed (mapped pages count).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Row, print_machine, print_table, run_process

PARTS = 16


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--samples", type=int, default=173_000_000)
    options.add_argument("--metric", choices=("vocab_rarity", "seqlen_vocab_rarity"), default="vocab_rarity")
    options.add_argument("--scratch", type=Path, help="folder for about 12 bytes a sample (default: the system's)")
    given = options.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        folder = Path(name)
        write_parts(folder / "map", given.samples, given.metric)
        command = [sys.executable, "-m", "dataeff", "analyze_reduce", "--map", str(folder / "map")]
        done = run_process([*command, "--parts", str(PARTS), "--out", str(folder / "index")])
    small = given.samples <= 200_000_000
    goal = "90 s, 4 GB" if small else "6 GB"
    found = f"{done.seconds:.1f} s, {done.peak_bytes / 1e9:.2f} GB"
    print_table("Reduce out of core", [Row(f"{given.samples:,} samples, {given.metric}", found, "", None, goal)])


def write_parts(folder: Path, samples: int, metric: str) -> None:
    from dataeff.files import sha256_file, write_json

    folder.mkdir()
    for part in range(PARTS):
        first, last = samples * part // PARTS, samples * (part + 1) // PARTS
        values = generate(np.random.default_rng(part), last - first, metric)
        np.save(folder / f"{part}.npy", values)
        facts = {
            "metric": metric,
            "family": "gpt" if metric == "vocab_rarity" else "bert",
            "sequence_length": 2048,
            "samples": samples,
            "samples_digest": "generated",
            "part": part,
            "parts": PARTS,
            "first": first,
            "last": last,
            "min": int(values.min()),
            "max": int(values.max()),
            "sha256": sha256_file(folder / f"{part}.npy"),
        }
        write_json(folder / f"{part}.json", facts)


def generate(random: np.random.Generator, count: int, metric: str) -> np.ndarray:
    """As real text gives them: rarities spread around 16,000, and lengths up to 512 in front of them."""
    rarity = np.clip(random.normal(16_000, 1_200, count), 2_000, 40_000).astype(np.uint32)
    if metric == "vocab_rarity":
        return rarity.astype(np.uint16)
    return (random.integers(5, 513, count).astype(np.uint32) * np.uint32(100_000) + rarity).astype(np.uint32)


if __name__ == "__main__":
    main()
