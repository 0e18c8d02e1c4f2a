"""The command `dataeff`: one subcommand per stage. Each reads its spec and its input files, and nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from dataeff.errors import DataeffError

Command = Callable[[argparse.Namespace], None]


def corpus_fetch(args: argparse.Namespace) -> None:
    from dataeff.corpus import fetch
    from dataeff.study.specs import FetchSpec, read_spec

    fetch.fetch(read_spec(args.spec, FetchSpec), args.cache, args.out)


def corpus_build(args: argparse.Namespace) -> None:
    from dataeff.corpus import build
    from dataeff.study.specs import CorpusSpec, read_spec

    build.build(read_spec(args.spec, CorpusSpec), args.sources, args.out)


def tokens_train(args: argparse.Namespace) -> None:
    from dataeff.study.specs import TokensSpec, read_spec
    from dataeff.tokens import tokenizer

    spec = read_spec(args.spec, TokensSpec)
    if spec.tokenizer.kind == "gpt2":
        tokenizer.build_gpt2(_only(args.source, "--source"), args.out)
    else:
        tokenizer.train(spec, args.source, args.out)


def _only(paths: list[Path], option: str) -> Path:
    if len(paths) != 1:
        raise DataeffError(f"{option}: one path is needed, {len(paths)} were given")
    return paths[0]


def tokens_encode(args: argparse.Namespace) -> None:
    from dataeff.tokens import encode

    encode.encode(args.shard, args.tokenizer, args.out)


def samples(args: argparse.Namespace) -> None:
    from dataeff.samples import build
    from dataeff.study.specs import SamplesSpec, read_spec

    build(read_spec(args.spec, SamplesSpec), args.tokens, args.out)


def analyze_frequency(args: argparse.Namespace) -> None:
    from dataeff.analyze import difficulty

    difficulty.frequency(args.samples, args.tokens, args.tokenizer, args.out)


def analyze_metric(args: argparse.Namespace) -> None:
    from dataeff.analyze import difficulty
    from dataeff.study.specs import AnalyzeSpec, read_spec

    difficulty.analyze(read_spec(args.spec, AnalyzeSpec), args.samples, args.tokens, args.frequency, args.out)


def plan(args: argparse.Namespace) -> None:
    from dataeff import plan as stage
    from dataeff.study.specs import PlanSpec, read_spec

    print(stage.run(read_spec(args.spec, PlanSpec), args.samples, {path.name: path for path in args.index}, args.out))


def pretrain(args: argparse.Namespace) -> None:
    from dataeff.study.load import validate
    from dataeff.study.types import Hardware

    names = ("processes", "threads", "micro_batch", "zero_stage", "checkpoint_every", "heldout_points")
    hardware = validate(Hardware, {name: getattr(args, name) for name in names}, "dataeff pretrain")
    if hardware.processes > 1 and "RANK" not in os.environ:
        _start_processes(hardware.processes)
    from dataeff.pretrain import loop
    from dataeff.study.specs import PretrainSpec, read_spec

    inputs = loop.Inputs(args.plan, args.samples, args.tokens, args.tokenizer, args.heldout)
    loop.run(read_spec(args.spec, PretrainSpec), inputs, args.state, args.out, hardware)


def _start_processes(count: int) -> None:
    """Replaces this process by torchrun, which starts this same command once per rank."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    os.execv(sys.executable, [*torchrun, "-m", "dataeff", *sys.argv[1:]])


def evaluate_items(args: argparse.Namespace) -> None:
    from dataeff.evaluate import items
    from dataeff.study.specs import ItemsSpec, read_spec

    items.build(read_spec(args.spec, ItemsSpec), args.heldout, args.out)


def evaluate_run(args: argparse.Namespace) -> None:
    from dataeff import evaluate
    from dataeff.study.specs import EvaluateSpec, read_spec

    evaluate.run(
        read_spec(args.spec, EvaluateSpec),
        args.model,
        args.heldout,
        args.items,
        args.out,
        threads=args.threads,
    )


def tables(args: argparse.Namespace) -> None:
    from dataeff import tables as stage
    from dataeff.study.specs import GridSpec, read_spec

    stage.build(read_spec(args.spec, GridSpec), args.results, args.out, args.data)


def figures(args: argparse.Namespace) -> None:
    from dataeff import figures as stage
    from dataeff.study.specs import GridSpec, read_spec

    stage.build(read_spec(args.spec, GridSpec), args.results, args.data, args.out)


def report(args: argparse.Namespace) -> None:
    from dataeff import report as stage
    from dataeff.study.specs import GridSpec, read_spec

    stage.build(read_spec(args.spec, GridSpec), args.results, args.corpus, args.tables, args.figures, args.out)


def summary(args: argparse.Namespace) -> None:
    from dataeff.tables import summary as table

    print(table(args.results, args.grid))


def schemas(args: argparse.Namespace) -> None:
    from dataeff.study.schemas import write_schemas

    for path in write_schemas(args.out):
        print(f"written: {path}")


def run(args: argparse.Namespace) -> None:
    from dataeff.launch import run_snakemake

    run_snakemake(args.arguments)


def _pretrain_options(parser: argparse.ArgumentParser) -> None:
    for name, what in (
        ("--plan", "the run's plan folder"),
        ("--samples", "sample index folder"),
        ("--tokenizer", "tokenizer folder"),
        ("--heldout", "folder of held-out documents"),
        ("--state", "folder for resume checkpoints; removed when the run is done"),
    ):
        parser.add_argument(name, type=Path, required=True, help=what)
    parser.add_argument("--tokens", type=Path, nargs="+", required=True, help="prefixes of the .bin/.idx files")
    for name, default, what in (
        ("--processes", 1, "ranks on this machine"),
        ("--threads", 1, "CPU threads per rank"),
        ("--micro-batch", 8, "rows per rank and pass"),
        ("--zero-stage", 0, "DeepSpeed ZeRO stage, 0 to 3"),
        ("--checkpoint-every", 50, "steps"),
        ("--heldout-points", 10, "how often the held-out probe is taken"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{what} (default {default}); never changes the plan")


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _stage(group: Commands, name: str, what: str, command: Command) -> argparse.ArgumentParser:
    sub = group.add_parser(name, help=what, description=what)
    sub.set_defaults(command=command)
    return sub


def _options(sub: argparse.ArgumentParser, *names: str) -> argparse.ArgumentParser:
    """`--name` takes one path, `--name+` one or more."""
    for name in names:
        many = name.endswith("+")
        sub.add_argument(name.rstrip("+"), type=Path, required=True, **({"nargs": "+"} if many else {}))
    return sub


def _group(commands: Commands, name: str, what: str) -> Commands:
    return commands.add_parser(name, help=what, description=what).add_subparsers(required=True, metavar="STEP")


def _data_stages(commands: Commands) -> None:
    corpus = _group(commands, "corpus", "text sources to shards and held-out documents")
    _options(_stage(corpus, "fetch", "bring one source into the cache", corpus_fetch), "--spec", "--cache", "--out")
    _options(
        _stage(corpus, "build", "clean, deduplicate, split, shard", corpus_build),
        "--spec",
        "--sources+",
        "--out",
    )
    tokens = _group(commands, "tokens", "tokenizer and tokens")
    _options(_stage(tokens, "train", "make the tokenizer", tokens_train), "--spec", "--source+", "--out")
    _options(_stage(tokens, "encode", "one shard to .bin/.idx", tokens_encode), "--shard", "--tokenizer", "--out")
    _options(_stage(commands, "samples", "the sample index", samples), "--spec", "--tokens+", "--out")
    analyze = _group(commands, "analyze", "difficulty of every sample")
    _options(
        _stage(analyze, "frequency", "token frequencies over all samples", analyze_frequency),
        "--samples",
        "--tokens+",
        "--tokenizer",
        "--out",
    )
    _options(
        _stage(analyze, "metric", "one metric to a difficulty index", analyze_metric),
        "--spec",
        "--samples",
        "--tokens+",
        "--frequency",
        "--out",
    )


def _run_stages(commands: Commands) -> None:
    planning = _options(
        _stage(commands, "plan", "steps table and sample order of a run", plan), "--spec", "--samples", "--out"
    )
    planning.add_argument("--index", type=Path, nargs="*", default=[], help="difficulty index folders, named by metric")
    training = _options(_stage(commands, "pretrain", "train one run", pretrain), "--spec", "--out")
    _pretrain_options(training)
    evaluate = _group(commands, "evaluate", "held-out loss and tasks")
    _options(
        _stage(evaluate, "items", "task items from held-out text", evaluate_items),
        "--spec",
        "--heldout",
        "--out",
    )
    scoring = _stage(evaluate, "run", "score one run", evaluate_run)
    _options(scoring, "--spec", "--model", "--heldout", "--items+", "--out")
    scoring.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")


def _result_stages(commands: Commands) -> None:
    _options(_stage(commands, "tables", "tables of a grid", tables), "--spec", "--results", "--data", "--out")
    _options(_stage(commands, "figures", "figures of a grid", figures), "--spec", "--results", "--data", "--out")
    _options(
        _stage(commands, "report", "one self-contained page", report),
        "--spec",
        "--results",
        "--corpus",
        "--tables",
        "--figures",
        "--out",
    )
    short = _options(_stage(commands, "summary", "print a grid's result table", summary), "--results")
    short.add_argument("--grid", default="core")
    _options(_stage(commands, "schemas", "write the JSON schemas of config/", schemas), "--out")
    # Snakemake's options are none of ours: without a prefix character all of them are plain arguments.
    what = "snakemake with its lock looked after; all arguments go to snakemake"
    launch = commands.add_parser("run", help=what, description=what, prefix_chars=" ", add_help=False)
    launch.add_argument("arguments", nargs=argparse.REMAINDER)
    launch.set_defaults(command=run)


def build_parser() -> argparse.ArgumentParser:
    """All subcommands; options that name files are paths, checked by the stage that reads them."""
    parser = argparse.ArgumentParser(prog="dataeff", description=__doc__)
    commands = parser.add_subparsers(title="stages", required=True, metavar="STAGE")
    _data_stages(commands)
    _run_stages(commands)
    _result_stages(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(arguments)
    try:
        args.command(args)
    except DataeffError as error:
        sys.exit(f"dataeff: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
