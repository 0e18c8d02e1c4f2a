"""Megatron-DeepSpeed's options of a run, as a shell script that starts it, and its tokenizer in Megatron's files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from dataeff.errors import DataeffError
from dataeff.families.traits import TRAITS
from dataeff.files import read_json, write_text
from dataeff.plan import final_learning_rate, peak_learning_rate, steps_table
from dataeff.samples.gpt import ARRAYS
from dataeff.study.load import Study
from dataeff.study.types import BertTokenizer, Run, WordPieceTokenizer
from dataeff.tokens.vocabulary import TOKENIZER_FILE

if TYPE_CHECKING:
    from dataeff.export.subject import Export

DESCRIPTION = "samples.dsc"
VOCABULARY, MERGES, WORDS = "vocab.json", "merges.txt", "vocab.txt"
MERGED_TOKENS = "all"
_LOG_EVERY, _HELD_OUT_EVERY, _HELD_OUT_BATCHES = 100, 1000, 10
Options = list[tuple[str, str]]


def data_path(export: Export) -> Path:
    """The one token prefix that Megatron takes: the only shard, or all of them merged beside them."""
    prefixes = export.places.token_prefixes
    return prefixes[0] if len(prefixes) == 1 else prefixes[0].with_name(MERGED_TOKENS)


def sample_files(export: Export) -> list[Path]:
    """The index files of our samples, which the difficulty index counts."""
    names = ["samples_mapping"] if TRAITS[export.run.family].sentence_pairs else list(ARRAYS)
    return [export.places.samples / f"{name}.npy" for name in names]


def takes_our_windows(export: Export) -> bool:
    """Whether Megatron is given GPT sample files; without a curriculum it makes its own, of the epochs it needs."""
    return bool(export.plan.variant.curriculum) and not TRAITS[export.run.family].sentence_pairs


def missing_data(export: Export) -> list[str]:
    """What the flags name and is not there yet."""
    missing = []
    tokens = data_path(export)
    if not tokens.with_name(f"{tokens.name}.bin").is_file():
        shards = export.places.token_prefixes
        made = all(shard.with_name(f"{shard.name}.bin").is_file() for shard in shards)
        remedy = "export with --merge-tokens" if made and len(shards) > 1 else "run snakemake as far as the tokens"
        missing.append(f"the tokens ({tokens}.bin); {remedy}")
    absent = [path for path in sample_files(export) if not path.is_file()]
    if export.plan.variant.curriculum and absent:
        missing.append(f"the samples ({absent[0]}); run snakemake as far as the samples")
    return missing


def flags(export: Export) -> str:
    """The text of a bash script; its first argument is Megatron-DeepSpeed's folder, further ones go to the launcher."""
    groups = {
        "model": _model(export),
        "batch_and_length_of_training": _duration(export),
        "learning_rate": _learning_rate(export),
        "optimizer": _optimizer(export),
        "data": _data(export),
        "data_efficiency": _data_efficiency(export),
        "output": _output(export),
    }
    script = TRAITS[export.run.family].megatron_script
    arrays = "\n\n".join(f"{name}=(\n{_lines(options)}\n)" for name, options in groups.items() if options)
    used = " ".join(f'"${{{name}[@]}}"' for name, options in groups.items() if options)
    return f"""#!/usr/bin/env bash
# {export.run.name} at scale {export.study.scale_name}, for Megatron-DeepSpeed. README.txt beside this file says more.
# Start it: bash megatron_flags.sh MEGATRON_DEEPSPEED_FOLDER [options of the deepspeed launcher, such as --hostfile]
set -euo pipefail
out={shlex.quote(str(export.places.out))}
megatron=${{1:?the folder of Megatron-DeepSpeed}}
shift

{arrays}

mkdir -p "$out/clusters" "$out/checkpoints"
exec deepspeed "$@" "$megatron/{script}" {used}
"""


def _lines(options: Options) -> str:
    return "\n".join(f"  {name} {value}".rstrip() for name, value in options)


def _model(export: Export) -> Options:
    model = export.training.model
    return [
        ("--num-layers", str(model.layers)),
        ("--hidden-size", str(model.hidden)),
        ("--num-attention-heads", str(model.heads)),
        ("--seq-length", str(model.sequence_length)),
        ("--max-position-embeddings", str(model.sequence_length)),
        ("--init-method-std", f"{model.init_std:g}"),
        ("--attention-dropout", f"{model.dropout:g}"),
        ("--hidden-dropout", f"{model.dropout:g}"),
        ("--tensor-model-parallel-size", "1"),
        ("--pipeline-model-parallel-size", "1"),
        ("--no-pipeline-parallel", ""),
    ]


def _duration(export: Export) -> Options:
    """The run ends on its tokens. Megatron wants a number of samples or steps too: twice what the plan takes.

    Steps where the warm-up is over steps, samples otherwise: Megatron refuses a mixture.
    """
    plan = export.plan
    steps = 2 * len(steps_table(plan))
    limit = (
        ("--train-iters", str(steps))
        if plan.learning_rate.warmup_steps
        else ("--train-samples", str(steps * plan.batch_size))
    )
    return [
        ("--micro-batch-size", str(export.layout.micro_batch)),
        ("--global-batch-size", str(plan.batch_size)),
        ("--train-tokens", str(plan.train_tokens)),
        limit,
    ]


def _learning_rate(export: Export) -> Options:
    schedule = export.plan.learning_rate
    warmup = (
        ("--lr-warmup-iters", str(schedule.warmup_steps))
        if schedule.warmup_steps
        else ("--lr-warmup-tokens", str(schedule.warmup_tokens))
    )
    return [
        ("--lr", _digits(peak_learning_rate(export.plan))),
        # Also what a variant's final_lr makes of it.
        ("--min-lr", _digits(final_learning_rate(export.plan))),
        ("--lr-decay-style", schedule.decay),
        ("--lr-decay-tokens", str(export.plan.train_tokens)),
        warmup,
        ("--override-opt_param-scheduler", ""),
    ]


def _digits(value: float) -> str:
    """A third of a peak needs more than six digits; 2e-4 * 1.5 fewer than all."""
    return f"{value:.10g}"


def _optimizer(export: Export) -> Options:
    adam, precision = export.training.adam, export.training.precision
    return [
        ("--adam-beta1", f"{adam.beta1:g}"),
        ("--adam-beta2", f"{adam.beta2:g}"),
        ("--adam-eps", f"{adam.epsilon:g}"),
        ("--weight-decay", f"{adam.weight_decay:g}"),
        ("--clip-grad", f"{adam.clip:g}"),
        *([] if precision == "fp32" else [(f"--{precision}", "")]),
        *([("--hysteresis", "2")] if precision == "fp16" else []),
        ("--seed", str(export.run.seed)),
    ]


def _data(export: Export) -> Options:
    split = export.study.family(export.run).split
    parts = "100,0,0" if split is None else f"{split.train:g},{split.validation:g},{split.test:g}"
    options = [("--data-path", _quoted(data_path(export))), ("--data-impl", "mmap"), ("--split", parts)]
    options += [("--num-workers", "0")]
    if _word_pieces(export.study, export.run):
        return [
            *options,
            ("--tokenizer-type", "BertWordPieceLowerCase"),
            ("--vocab-file", f'"$out"/vocabulary/{WORDS}'),
        ]
    return [
        *options,
        ("--tokenizer-type", "GPT2BPETokenizer"),
        ("--vocab-file", f'"$out"/vocabulary/{VOCABULARY}'),
        ("--merge-file", f'"$out"/vocabulary/{MERGES}'),
    ]


def _data_efficiency(export: Export) -> Options:
    variant = export.plan.variant
    options: Options = [("--random-ltd", "")] if variant.token_drop is not None else []
    if not variant.curriculum:
        return options
    options.append(("--data-efficiency-curriculum-learning", ""))
    files = sample_files(export)
    if not takes_our_windows(export):
        return [*options, ("--train-idx-path", _quoted(files[0]))]
    arrays = [(f"--train-{path.stem.replace('_', '-')}-path", _quoted(path)) for path in files]
    return [*options, ("--train-desc-path", f'"$out"/{DESCRIPTION}'), *arrays]


def _output(export: Export) -> Options:
    # Without held-out documents in the split there is nothing to evaluate.
    batches = _HELD_OUT_BATCHES if export.study.family(export.run).split is not None else 0
    return [
        ("--deepspeed", ""),
        ("--deepspeed_config", '"$out"/ds_config.json'),
        ("--zero-stage", str(export.layout.zero_stage)),
        ("--log-interval", str(_LOG_EVERY)),
        ("--eval-interval", str(_HELD_OUT_EVERY)),
        ("--eval-iters", str(batches)),
        ("--save-interval", str(export.study.hardware.checkpoint_every)),
        ("--save", '"$out"/checkpoints'),
        ("--load", '"$out"/checkpoints'),
    ]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def description(export: Export) -> str:
    """The file that Megatron wants beside the sample index files, and reads nothing from."""
    return (
        f"Sample index of {export.run.name}: {export.places.samples}\n"
        "Megatron takes the index files that it is given only if a description file exists too; without one it makes\n"
        "samples of its own and writes them over the given files.\n"
    )


def _word_pieces(study: Study, run: Run) -> bool:
    return isinstance(study.tokenizers[study.family(run).tokenizer], WordPieceTokenizer | BertTokenizer)


def write_vocabulary(study: Study, run: Run, data: Path, out: Path) -> list[str]:
    """The run's tokenizer in the files that Megatron reads, in the folder `out`; what is missing for that."""
    name = study.family(run).tokenizer
    source = data / name / "tokenizer" / TOKENIZER_FILE
    if not source.is_file():
        return [f"the tokenizer {name} ({source}); run snakemake as far as the tokenizer, then export again"]
    raw = read_json(source)
    try:
        ids = {**raw["model"]["vocab"], **{token["content"]: token["id"] for token in raw["added_tokens"]}}
        merges = raw["model"].get("merges", [])
    except (KeyError, TypeError):
        raise DataeffError(f"{source}: no vocabulary in it; make the tokenizer again") from None
    if _word_pieces(study, run):
        write_text(out / WORDS, "".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__)))
        return []
    ordered = dict(sorted(ids.items(), key=lambda item: item[1]))
    write_text(out / VOCABULARY, json.dumps(ordered, ensure_ascii=False))
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    write_text(out / MERGES, "\n".join(["#version: 0.2", *lines, ""]))
    return []
