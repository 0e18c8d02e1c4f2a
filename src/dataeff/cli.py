"""The command `dataeff`: one subcommand per stage. Each reads its spec and its input files, and nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
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


def corpus_fetch_shard(args: argparse.Namespace) -> None:
    from dataeff.corpus import fetch
    from dataeff.study.specs import FetchSpec, read_spec

    fetch.fetch_shard(read_spec(args.spec, FetchSpec), args.shard, args.cache, args.out)


def corpus_shard(args: argparse.Namespace) -> None:
    from dataeff.corpus import sharded
    from dataeff.study.specs import CorpusSpec, read_spec

    sharded.build_shard(read_spec(args.spec, CorpusSpec), args.source, args.shard, args.out)


def corpus_card(args: argparse.Namespace) -> None:
    from dataeff.corpus import sharded
    from dataeff.study.specs import CorpusSpec, read_spec

    sharded.build_card(read_spec(args.spec, CorpusSpec), args.facts, args.sources, args.out)


def tokens_train(args: argparse.Namespace) -> None:
    from dataeff.study.specs import TokensSpec, read_spec
    from dataeff.tokens import tokenizer

    tokenizer.make(read_spec(args.spec, TokensSpec), args.source, args.out)


def tokens_encode(args: argparse.Namespace) -> None:
    from dataeff.tokens import encode

    encode.encode(args.shard, args.tokenizer, args.out, text_key=args.text_key, processes=args.processes)


def tokens_merge(args: argparse.Namespace) -> None:
    from dataeff.tokens import indexed_merge

    count = indexed_merge.merge(args.tokens, args.out)
    print(f"tokens merge: {len(args.tokens)} pairs to {args.out}.bin and .idx, {count:,} tokens")


def tokens_link(args: argparse.Namespace) -> None:
    from dataeff.tokens import indexed_merge

    indexed_merge.link_for_deepspeed(args.tokens, args.out)
    print(f"tokens link: {args.out}.bin and .idx, which DeepSpeed's MMapIndexedDataset opens")


def samples(args: argparse.Namespace) -> None:
    from dataeff.analyze.compiled import keep_compiled
    from dataeff.samples import build
    from dataeff.study.specs import SamplesSpec, read_spec

    keep_compiled()
    build(read_spec(args.spec, SamplesSpec), args.tokens, args.out)


def analyze_map(args: argparse.Namespace) -> None:
    from dataeff.analyze import map as stage
    from dataeff.analyze.compiled import keep_compiled
    from dataeff.analyze.difficulty import check_samples
    from dataeff.study.specs import AnalyzeSpec, read_spec
    from dataeff.study.types import FREQUENCY

    keep_compiled()
    spec = read_spec(args.spec, AnalyzeSpec)
    check_samples(spec, args.samples)
    if spec.metric == FREQUENCY:
        stage.map_frequency(args.samples, args.tokens, args.tokenizer, args.part, args.parts, args.out, args.threads)
    else:
        stage.map_part(
            spec.metric,
            args.samples,
            args.tokens,
            args.part,
            args.parts,
            args.out,
            frequency=args.frequency,
            tokenizer=args.tokenizer,
            threads=args.threads,
        )


def analyze_frequency(args: argparse.Namespace) -> None:
    from dataeff.analyze.reduce import reduce_frequency

    reduce_frequency(args.map, args.parts, args.out)


def analyze_reduce(args: argparse.Namespace) -> None:
    from dataeff.analyze.compiled import keep_compiled
    from dataeff.analyze.reduce import reduce

    keep_compiled()
    reduce(args.map, args.parts, args.out)


def plan(args: argparse.Namespace) -> None:
    from dataeff import plan as stage
    from dataeff.study.specs import PlanSpec, read_spec

    print(stage.run(read_spec(args.spec, PlanSpec), args.samples, {path.name: path for path in args.index}, args.out))


def pretrain(args: argparse.Namespace) -> None:
    from dataeff.study.load import validate
    from dataeff.study.types import RUN_SETTINGS, Hardware

    hardware = validate(Hardware, {name: getattr(args, name) for name in RUN_SETTINGS}, "dataeff pretrain")
    if hardware.processes > 1 and "RANK" not in os.environ:
        from dataeff.pretrain.launch import start

        start(hardware.processes, sys.argv[1:])
    from dataeff.pretrain import loop
    from dataeff.study.specs import PretrainSpec, read_spec

    inputs = loop.Inputs(args.plan, args.samples, args.tokens, args.tokenizer, args.heldout)
    loop.run(read_spec(args.spec, PretrainSpec), inputs, args.state, args.out, hardware)


def evaluate_items(args: argparse.Namespace) -> None:
    from dataeff.evaluate import items
    from dataeff.study.specs import ItemsSpec, read_spec

    items.build(read_spec(args.spec, ItemsSpec), args.heldout, args.out)


def fetch_eval(args: argparse.Namespace) -> None:
    from dataeff.evaluate.datasets import fetch_dataset
    from dataeff.study.specs import DatasetSpec, read_spec

    fetch_dataset(read_spec(args.spec, DatasetSpec), args.cache, args.out)


def evaluate_heldout(args: argparse.Namespace) -> None:
    from dataeff import evaluate
    from dataeff.study.specs import HeldoutSpec, read_spec

    evaluate.heldout(read_spec(args.spec, HeldoutSpec), args.model, args.heldout, args.out, threads=args.threads)


def evaluate_run(args: argparse.Namespace) -> None:
    from dataeff import evaluate
    from dataeff.study.specs import EvaluateSpec, read_spec

    evaluate.run(
        read_spec(args.spec, EvaluateSpec),
        args.model,
        args.items,
        args.datasets,
        args.state,
        args.out,
        threads=args.threads,
    )


def evaluate_scan(args: argparse.Namespace) -> None:
    from dataeff.analyze.compiled import keep_compiled
    from dataeff.evaluate import contamination
    from dataeff.study.specs import ContaminationSpec, read_spec

    keep_compiled()
    contamination.scan(read_spec(args.spec, ContaminationSpec), args.shard, args.datasets, args.out)


def evaluate_contamination(args: argparse.Namespace) -> None:
    from dataeff.evaluate import contamination

    contamination.report(args.parts, args.out)


def finetune(args: argparse.Namespace) -> None:
    from dataeff import finetune as stage
    from dataeff.study.specs import FinetuneSpec, read_spec

    spec = read_spec(args.spec, FinetuneSpec)
    stage.run(spec, args.model, args.dataset, args.state, args.out, threads=args.threads)


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

    stage.build(
        read_spec(args.spec, GridSpec), args.results, args.corpus, args.tokens, args.tables, args.figures, args.out
    )


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
    for name, kind, default, what in (
        ("--processes", int, 1, "ranks on this machine"),
        ("--threads", int, 1, "CPU threads per rank"),
        ("--micro-batch", _rows, 8, "rows per rank and pass; auto: the most that fit"),
        ("--zero-stage", int, 0, "DeepSpeed ZeRO stage, 0 to 3"),
        ("--activation-checkpointing", _truth, False, "true: compute activations again in the backward pass"),
        ("--compile", _truth, False, "true: compile the transformer layers before training"),
        ("--checkpoint-every", int, 50, "steps"),
        ("--keep-last", int, 2, "resume checkpoints that are kept"),
        ("--keep-every", int, None, "steps; such checkpoints are kept beyond the run's end"),
        ("--heldout-points", int, 10, "how often the held-out probe is taken"),
        ("--max-skipped", int, 5, "steps in a row whose loss or gradient is no number, before the run is stopped"),
        ("--timeout-seconds", int, 600, "how long ranks wait for one that does not come"),
        ("--tensorboard", _truth, False, "true: write TensorBoard's events"),
    ):
        told = f"{what} (default {str(default).lower()}); never changes the plan"
        parser.add_argument(name, type=kind, default=default, help=told)


def _rows(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}': a number of rows or auto is needed")
    return text if text == "auto" else int(text)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"'{text}': true or false is needed")
    return text == "true"


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
    fetching = _stage(corpus, "fetch_shard", "bring one file of a sharded corpus's source", corpus_fetch_shard)
    shard = _stage(corpus, "shard", "clean one file to one shard", corpus_shard)
    _options(fetching, "--spec", "--cache", "--out")
    _options(shard, "--spec", "--source", "--out")
    for sub in (fetching, shard):
        sub.add_argument("--shard", required=True, help="its name, such as 00")
    card = _stage(corpus, "card", "held-out text and data card of a sharded corpus", corpus_card)
    _options(card, "--spec", "--facts+", "--out")
    card.add_argument("--sources", type=Path, nargs="*", default=[], help="manifest of the source that is held out")
    tokens = _group(commands, "tokens", "tokenizer and tokens")
    _options(_stage(tokens, "train", "make the tokenizer", tokens_train), "--spec", "--source+", "--out")
    encoding = _stage(tokens, "encode", "one shard to .bin/.idx", tokens_encode)
    _options(encoding, "--shard", "--tokenizer", "--out")
    encoding.add_argument("--text-key", default="text", help="field of a line that holds its text (default text)")
    encoding.add_argument("--processes", type=int, help="default: one per CPU, fewer for a small shard")
    merged = _stage(tokens, "merge", "several .bin/.idx pairs to one, for programs that take one", tokens_merge)
    _options(merged, "--tokens+", "--out")
    linked = _stage(tokens, "link", "a second .idx for DeepSpeed's own reader, over the same .bin", tokens_link)
    _options(linked, "--tokens", "--out")
    _options(_stage(commands, "samples", "the sample index", samples), "--spec", "--tokens+", "--out")
    _analysis_stages(commands)


def _analysis_stages(commands: Commands) -> None:
    part = _options(
        _stage(commands, "analyze_map", "one metric of one part of the samples", analyze_map),
        "--spec",
        "--samples",
        "--tokens+",
        "--tokenizer",
        "--out",
    )
    part.add_argument("--part", type=int, required=True, help="number of the part, from 0")
    part.add_argument("--threads", type=int, help="default: one per CPU; metrics that read text use one")
    part.add_argument("--frequency", type=Path, help="token frequencies, for metrics that weigh by them")
    frequency = _stage(commands, "analyze_frequency", "token frequencies of all parts", analyze_frequency)
    index = _stage(commands, "analyze_reduce", "the parts of one metric to its difficulty index", analyze_reduce)
    for sub in (frequency, index):
        _options(sub, "--map", "--out")
    for sub in (part, frequency, index):
        sub.add_argument("--parts", type=int, required=True, help="how many parts the samples are analysed in")


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
    loss = _stage(evaluate, "heldout", "held-out loss of one run", evaluate_heldout)
    _options(loss, "--spec", "--model", "--heldout", "--out")
    scoring = _stage(evaluate, "run", "put one group of tasks to one run", evaluate_run)
    _options(scoring, "--spec", "--model", "--state", "--out")
    scoring.add_argument("--items", type=Path, nargs="*", default=[], help="folders of items from held-out text")
    scoring.add_argument("--datasets", type=Path, nargs="*", default=[], help="manifests of fetched datasets")
    scan = _stage(evaluate, "scan", "look for the items of tasks in a shard of the training text", evaluate_scan)
    _options(scan, "--spec", "--shard", "--out")
    scan.add_argument("--datasets", type=Path, nargs="*", default=[], help="manifests of fetched datasets")
    _options(_stage(evaluate, "contamination", "what the scans found", evaluate_contamination), "--parts+", "--out")
    tuning = _stage(commands, "finetune", "finetune one run on one task", finetune)
    _options(tuning, "--spec", "--model", "--dataset", "--state", "--out")
    for sub in (loss, scoring, tuning):
        sub.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    _options(_stage(commands, "fetch-eval", "bring one dataset for tasks", fetch_eval), "--spec", "--cache", "--out")


def _result_stages(commands: Commands) -> None:
    _options(_stage(commands, "tables", "tables of a grid", tables), "--spec", "--results", "--data", "--out")
    _options(_stage(commands, "figures", "figures of a grid", figures), "--spec", "--results", "--data", "--out")
    _options(
        _stage(commands, "report", "one self-contained page", report),
        "--spec",
        "--results",
        "--corpus",
        "--tokens+",
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


GROUPS = {
    "study": "what a study will do and cost, before it runs",
    "export": "a run for other programs",
    "measured": "the results of a grid, small enough to be committed",
}
_ASKED = "dataeff.inquiry.options"
# What people call by hand: the words; what it does; where its options and its function are.
TOOLS: tuple[tuple[tuple[str, ...], str, tuple[str, str], str], ...] = (
    (
        ("analyze",),
        "difficulty of any Megatron token files, without a study",
        ("dataeff.analyze.command", "add_arguments"),
        "dataeff.analyze.command",
    ),
    (
        ("inspect",),
        "what a difficulty index says about its samples",
        ("dataeff.analyze.inspect_command", "add_arguments"),
        "dataeff.analyze.inspect_command",
    ),
    (
        ("study", "plan"),
        "the plan of a run: table and picture",
        (_ASKED, "plan_arguments"),
        "dataeff.inquiry.plan_view",
    ),
    (("study", "diff"), "what differs between two runs", (_ASKED, "diff_arguments"), "dataeff.inquiry.difference"),
    (("study", "cost"), "tokens, FLOPs, GPU-hours, dollars", (_ASKED, "cost_arguments"), "dataeff.inquiry.cost"),
    (
        ("tune",),
        "a pacing's start and duration by short trainings",
        ("dataeff.tune.command", "add_arguments"),
        "dataeff.tune.command",
    ),
    (
        ("status",),
        "what of a study is finished, running, pending, failed; reads files only",
        ("dataeff.monitor.status", "add_arguments"),
        "dataeff.monitor.status",
    ),
    (
        ("preview",),
        "what would run again after an edit, why, and its GPU-hours",
        ("dataeff.monitor.preview", "add_arguments"),
        "dataeff.monitor.preview",
    ),
    (
        ("doctor",),
        "whether this machine or site can run the study, and what to change",
        ("dataeff.monitor.doctor", "add_arguments"),
        "dataeff.monitor.doctor",
    ),
    (
        ("canary",),
        "minutes through every stage on the hardware of a training (rule canary)",
        ("dataeff.monitor.canary", "add_arguments"),
        "dataeff.monitor.canary",
    ),
    (
        ("measured", "collect"),
        "a finished grid to a folder that can be committed",
        ("dataeff.measured.collect", "add_arguments"),
        "dataeff.measured.collect",
    ),
    (
        ("measured", "build"),
        "its tables, figures and page, made again without training",
        ("dataeff.measured.build", "add_arguments"),
        "dataeff.measured.build",
    ),
    (
        ("measured", "state"),
        "the reproduction statement: its claims and runs, into the documents",
        ("dataeff.measured.statement", "add_arguments"),
        "dataeff.measured.statement",
    ),
    (
        ("export", "deepspeed"),
        "ds_config.json and Megatron-DeepSpeed's flags for a run",
        (_ASKED, "deepspeed_arguments"),
        "dataeff.export.deepspeed",
    ),
)


def _tools(commands: Commands, arguments: Sequence[str]) -> None:
    """A tool's options come from its module, which is imported only if the tool is called: some are heavy."""
    groups: dict[str, Commands] = {}
    for words, what, (module, adder), runner in TOOLS:
        group = commands
        if len(words) == 2:
            if words[0] not in groups:
                groups[words[0]] = _group(commands, words[0], GROUPS[words[0]])
            group = groups[words[0]]
        sub = _stage(group, words[-1], what, partial(_run_tool, runner))
        if tuple(arguments[: len(words)]) == words:
            getattr(import_module(module), adder)(sub)


def _run_tool(module: str, args: argparse.Namespace) -> None:
    import_module(module).run(args)


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """All subcommands, with the options of the tool that `arguments` call.

    Options that name files are paths, checked by the stage that reads them.
    """
    parser = argparse.ArgumentParser(prog="dataeff", description=__doc__)
    commands = parser.add_subparsers(title="stages", required=True, metavar="STAGE")
    _data_stages(commands)
    _run_stages(commands)
    _result_stages(commands)
    _tools(commands, arguments)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    args = build_parser(arguments).parse_args(arguments)
    try:
        args.command(args)
    except DataeffError as error:
        sys.exit(f"dataeff: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`); nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
