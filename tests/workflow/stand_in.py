"""A stand-in for `dataeff` whose stages end at once: it makes the files that a stage makes, and nothing in them.

It shows what the workflow runs and when; what the stages make is for other tests to check. The command line is
read by the real parser, so a rule that gives an option which the command does not have fails here. A file's content
follows from its name and the stage's spec, so that one thing made twice is the same twice.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path

import yaml

from dataeff.cli import build_parser

LARGE = (".bin", ".zst", ".safetensors")
"""Above 1 MB, where Snakemake stops comparing contents unless told otherwise."""

FOLDERS = {
    "tokens_train": ["tokenizer.json"],
    "samples": ["samples.json", "manifest.json"],
    "analyze_reduce": ["index.json", "value.npy", "order.npy", "manifest.json"],
    "plan": ["steps.parquet", "order.json", "counts.npy", "plan.json"],
    "pretrain": ["model.safetensors", "config.json", "metrics.jsonl", "run.json", "timings.json"],
    "evaluate_items": ["manifest.json"],
    "finetune": ["scores.json"],
    "tables": [
        *(f"{name}.csv" for name in ("quality", "published", "heldout_by_domain", "tasks", "time", "saving")),
        "claims.json",
    ],
    "figures": ["captions.json", "pacing.png"],
}


def outputs(stage: str, args: argparse.Namespace) -> list[Path]:
    out: Path = args.out
    if stage in FOLDERS:
        return [out / name for name in FOLDERS[stage]]
    if stage == "tokens_encode":
        return [out.with_name(out.name + suffix) for suffix in (".bin", ".idx", ".json")]
    if stage == "report":
        return [out, out.with_suffix(".claims.json")]
    if stage == "analyze_map":
        return [out / f"{args.part}{suffix}" for suffix in (".npy", ".json")]
    if stage in ("corpus_build", "evaluate_run"):
        spec = yaml.safe_load(args.spec.read_text())
        if stage == "evaluate_run":
            return [out / f"{shots}shot/scores.json" for shots in spec["shots"]]
        shards = [out / f"shards/{number:02d}.jsonl.zst" for number in range(spec["corpus"]["shards"])]
        return [out / "corpus.json", out / "heldout/manifest.json", *shards]
    return [out]


def main() -> None:
    args = build_parser().parse_args()
    stage = args.command.__name__
    print(f"stand-in: {stage} of {args.out}", flush=True)
    if os.environ.get("FAIL") == f"{stage} {args.out.name}":
        sys.exit(f"stand-in: {stage} of {args.out.name} was told to fail")
    while "WAIT" in os.environ and stage == "pretrain" and not Path(os.environ["WAIT"]).exists():
        time.sleep(0.02)
    spec = Path(args.spec).read_bytes() if hasattr(args, "spec") else b""
    for path in outputs(stage, args):
        path.parent.mkdir(parents=True, exist_ok=True)
        line = f"{path.name} of {stage} {hashlib.sha256(spec).hexdigest()}\n"
        path.write_text(line * (20_000 if path.suffix in LARGE else 1))


if __name__ == "__main__":
    main()
