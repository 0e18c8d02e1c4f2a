"""The options of the commands that ask about a study or export a run; argparse alone, so that the CLI starts fast."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

from dataeff.inquiry.gpus import DEFAULT_GPU, DEFAULT_UTILISATION, GPUS

RUN = "FAMILY-VARIANT-PERCENT-sSEED, in a grid or not"
SHOWN_ROWS = 20


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """`dataeff study plan`, for plan_view.run."""
    parser.add_argument("run", metavar="RUN", help=RUN)
    _data_argument(parser)
    parser.add_argument("--rows", type=int, default=SHOWN_ROWS, help=f"rows shown, about (default {SHOWN_ROWS})")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every row as CSV")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="write every row as Parquet")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the plan")
    study_arguments(parser)


def diff_arguments(parser: argparse.ArgumentParser) -> None:
    """`dataeff study diff`, for difference.run."""
    parser.add_argument("a", metavar="A", help=RUN)
    parser.add_argument("b", metavar="B", help="another run, or the same at another scale")
    parser.add_argument(
        "--config-b", nargs="+", default=[], metavar="KEY=VALUE", help="settings for B alone, such as scale=paper"
    )
    _data_argument(parser)
    price_arguments(parser)
    study_arguments(parser)


def cost_arguments(parser: argparse.ArgumentParser) -> None:
    """`dataeff study cost`, for cost.run."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("run", nargs="?", metavar="RUN", help=f"{RUN} (default: each run of the default grid)")
    which.add_argument("--grid", help="each run of this grid")
    which.add_argument("--all", action="store_true", help="each run of every grid")
    _data_argument(parser)
    parser.add_argument("--explain", action="store_true", help="print the formula and its terms")
    price_arguments(parser)
    study_arguments(parser)


def deepspeed_arguments(parser: argparse.ArgumentParser) -> None:
    """`dataeff export deepspeed`, for export.deepspeed.run."""
    parser.add_argument("--run", required=True, metavar="RUN", help=RUN)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write; an earlier export goes"
    )
    parser.add_argument(
        "--index-dir",
        type=Path,
        metavar="DIR",
        help="holds METRIC/METRIC_index_to_sample.bin and so on, as DeepSpeed's analyser writes them "
        "(default: made from the results)",
    )
    parser.add_argument(
        "--micro-batch", type=int, metavar="N", help="rows a GPU and pass (default: the scale's or fewer)"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="data-parallel GPUs (default: the scale's processes)")
    parser.add_argument("--zero-stage", type=int, choices=range(4), help="default: the scale's")
    parser.add_argument(
        "--merge-tokens", action="store_true", help="merge the token shards into the one pair that Megatron takes"
    )
    _data_argument(parser)
    study_arguments(parser)


def study_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which study")
    group.add_argument("--root", type=Path, default=Path(), help="the folder that holds config/ (default: this one)")
    group.add_argument(
        "--configfile", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help="as for snakemake"
    )
    group.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as for snakemake: scale=paper"
    )


def price_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("at what price")
    group.add_argument("--gpu", help=f"{', '.join(GPUS)} (default {DEFAULT_GPU})")
    group.add_argument("--peak-tflops", type=float, metavar="X", help="dense bf16 peak of any other GPU")
    group.add_argument(
        "--mfu",
        type=float,
        default=DEFAULT_UTILISATION,
        help=f"share of the peak that training reaches (default {DEFAULT_UTILISATION:.2f}, an assumption)",
    )
    group.add_argument("--recompute", action="store_true", help="count the recomputation of activations too")
    group.add_argument("--gpus", type=int, default=1, help="also say how long so many GPUs take (default 1)")
    group.add_argument("--dollars-per-gpu-hour", type=float, metavar="X", help="also say what that costs")


def _data_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=_fraction,
        metavar="FRACTION",
        help="the exact data fraction of a run that is in no grid (2/3, where its name says 67)",
    )


def _fraction(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"'{text}' is no fraction; write 2/3 or 0.67") from None
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{value}: above 0 and at most 1 is needed")
    return value
