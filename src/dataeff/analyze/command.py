"""`dataeff analyze PREFIX...`: the standalone analysis on the command line, and what to do with what it has made."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataeff.analyze.deepspeed_format import INDEX_TO_METRIC, PERCENTILE_MERGED, prefix_of
from dataeff.analyze.inspect import find_index, percentile_table
from dataeff.analyze.standalone import Analyzed, analyze_tokens
from dataeff.errors import DataeffError
from dataeff.samples import SpecialIds, megatron_arguments
from dataeff.samples.split import parse_split
from dataeff.study.base import FamilyName
from dataeff.study.types import FREQUENCY
from dataeff.tokens.tokenizer import load

# First percentile, and steps until all samples are eligible: 38% of GPT's steps and 48% of BERT's.
PAPER_PACING: dict[FamilyName, tuple[int, int]] = {"gpt": (1, 110_000), "bert": (5, 960_000)}
EXISTING = ("doc_idx", "sample_idx", "shuffle_idx", "samples_mapping")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prefixes", type=Path, nargs="+", metavar="PREFIX", help="token files, less .bin and .idx")
    add("--family", choices=("gpt", "bert"), required=True, help="windows over documents, or sentence pairs")
    add("--seq-length", type=int, required=True, help="tokens per sample, as Megatron's --seq-length")
    add("--metric", nargs="+", required=True, dest="metrics", metavar="METRIC", help="one or more")
    add("--out", type=Path, required=True, help="a new folder, or that of the same analysis to go on with")
    add("--format", choices=("native", "deepspeed"), default="native", help="files to write (default native)")
    add("--workers", type=int, help="processes (default: one per CPU)")
    add("--split", help="Megatron's --split, such as 949,50,1: analyzes its training part (default: all documents)")
    add("--seed", type=int, default=1234, help="Megatron's --seed (default 1234)")
    add("--epochs", type=int, default=1, help="Megatron's --train-data-exact-num-epochs (default 1)")
    add("--train-samples", type=int, help="with several epochs: samples that the run asks Megatron for")
    add("--short-seq-prob", type=float, default=0.1, help="Megatron's, sentence pairs only (default 0.1)")
    add("--tokenizer", type=Path, help="tokenizer folder: vocabulary, special ids, and text for metrics that read it")
    add("--vocab-size", type=int, help="tokens of the vocabulary, where no tokenizer is given")
    add("--make-vocab-size-divisible-by", type=int, default=128, help="Megatron's (default 128)")
    add("--special-ids", metavar="CLS,SEP,PAD", help="where no tokenizer is given, sentence pairs only")
    for name in EXISTING:
        dashed = name.replace("_", "-")
        add(f"--{dashed}", type=Path, metavar="FILE", help=f"an existing {name}.npy of Megatron, used as it is")


def run(args: argparse.Namespace) -> None:
    for name in ("seq_length", "epochs", "workers", "vocab_size", "make_vocab_size_divisible_by", "train_samples"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise DataeffError(f"--{name.replace('_', '-')} {value}: 1 or more")
    if not 0 <= args.short_seq_prob <= 1:
        raise DataeffError(f"--short-seq-prob {args.short_seq_prob}: a share, from 0 to 1")
    analyzed = analyze_tokens(
        args.prefixes,
        args.family,
        args.seq_length,
        list(dict.fromkeys(args.metrics)),
        args.out,
        format=args.format,
        workers=args.workers,
        split=None if args.split is None else parse_split(args.split),
        seed=args.seed,
        epochs=args.epochs,
        train_samples=args.train_samples,
        short_seq_prob=args.short_seq_prob,
        tokenizer=args.tokenizer,
        padded_vocab_size=_padded_vocab_size(args),
        special=None if args.special_ids is None else _special_ids(args.special_ids),
        existing=_existing(args),
    )
    print(summary(analyzed))


def _padded_vocab_size(args: argparse.Namespace) -> int | None:
    multiple = int(args.make_vocab_size_divisible_by)
    if args.vocab_size is None:
        return None if args.tokenizer is None else load(args.tokenizer).padded_vocab_size(multiple)
    return -(-int(args.vocab_size) // multiple) * multiple


def _special_ids(text: str) -> SpecialIds:
    try:
        cls, sep, pad = (int(part) for part in text.split(","))
    except ValueError:
        raise DataeffError(f"--special-ids {text}: three numbers, such as 101,102,0") from None
    return SpecialIds(cls, sep, pad)


def _existing(args: argparse.Namespace) -> dict[str, Path]:
    found = {name: getattr(args, name) for name in EXISTING if getattr(args, name) is not None}
    for name, path in found.items():
        if (name == "samples_mapping") != (args.family == "bert"):
            raise DataeffError(f"--{name.replace('_', '-')}: not of {args.family} samples; see --help")
        if not path.is_file():
            raise DataeffError(f"{path}: no such file; give an .npy that Megatron has made")
    return found


def summary(analyzed: Analyzed) -> str:
    """What was written, the percentiles, and how Megatron-DeepSpeed takes it."""
    folder = analyzed.folder.path.absolute()
    metrics = [metric for metric in analyzed.metrics if metric != FREQUENCY]
    lines = [f"\n{analyzed.samples:,} {analyzed.family} samples. Written to {folder}:"]
    lines += [f"  {path}" for path in ("samples/", f"{FREQUENCY}.npy") if (folder / path).exists()]
    lines += [f"  {metric}/" for metric in analyzed.metrics if (folder / metric).exists()]
    if metrics:
        lines.append("\nThe value that a share of the samples does not exceed:")
        lines.append(percentile_table([find_index(folder / metric).index for metric in metrics]))
        lines.append(f"\nTo see samples: dataeff inspect {shlex.quote(str(folder))} --metric METRIC --tokenizer FOLDER")
    lines.append("\nMegatron-DeepSpeed trains on these samples with:")
    if len(analyzed.token_files) > 1:
        lines.append(f"  (it takes one token file: merge the {len(analyzed.token_files)} in the same order first)")
    lines.append("  --data-efficiency-curriculum-learning \\")
    arguments = megatron_arguments(analyzed.folder.samples)
    pairs = [f"  {option} {shlex.quote(path)}" for option, path in zip(arguments[::2], arguments[1::2], strict=True)]
    lines.append(" \\\n".join(pairs))
    if analyzed.format == "deepspeed" and metrics:
        lines.append(
            "\nand with this in its DeepSpeed configuration; total_curriculum_step is the paper's, set it for your run:"
        )
        lines.append(json.dumps(deepspeed_configuration(analyzed, metrics), indent=2))
    return "\n".join(lines)


def deepspeed_configuration(analyzed: Analyzed, metrics: Sequence[str]) -> dict[str, Any]:
    """The part of a DeepSpeed configuration that names our files, with the paper's pacing (arXiv 2212.03597)."""
    folder = analyzed.folder.path.absolute()
    start, steps = PAPER_PACING[analyzed.family]
    parts = {
        metric: {
            "index_to_sample_path": str(prefix_of(folder / metric, metric, PERCENTILE_MERGED)),
            "index_to_metric_path": str(prefix_of(folder / metric, metric, INDEX_TO_METRIC)),
            "difficulty_type": "percentile",
            "clustering_type": "schedule_based",
            "min_difficulty": start,
            "max_difficulty": 100,
            "schedule_type": "fixed_root",
            "schedule_config": {"total_curriculum_step": steps, "difficulty_step": 1, "root_degree": 2},
        }
        for metric in metrics
    }
    curriculum = {"enabled": True, "data_cluster_path": str(folder / "clusters"), "curriculum_metrics": parts}
    sampling = {"enabled": True, "num_workers": 0, "curriculum_learning": curriculum}
    return {"data_efficiency": {"enabled": True, "seed": 1234, "data_sampling": sampling}}
