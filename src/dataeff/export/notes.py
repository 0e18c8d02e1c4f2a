"""The README.txt of an export: what its files are, and what of the run DeepSpeed does otherwise than we do."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from dataeff.export.megatron import takes_our_windows
from dataeff.families.traits import TRAITS
from dataeff.plan import nominal_steps

if TYPE_CHECKING:
    from dataeff.export.subject import Export

_WIDTH = 100


def readme(export: Export, missing: Sequence[str]) -> str:
    """The whole text."""
    parts = [
        [f"{export.run.name} at scale {export.study.scale_name}, for DeepSpeed and Megatron-DeepSpeed"],
        ["Files", *_bullets(_files(export))],
        ["Still missing", *_bullets(missing)] if missing else [],
        ["What DeepSpeed does otherwise than this project", *_bullets(deviations(export))],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _bullets(texts: Sequence[str]) -> list[str]:
    return [fill(text, _WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False) for text in texts]


def _files(export: Export) -> list[str]:
    plan, layout, places = export.plan, export.layout, export.places
    passes = layout.accumulation_steps(plan.batch_size)
    files = [
        f"ds_config.json: DeepSpeed's configuration; a step's {plan.batch_size} samples on {layout.gpus} data-parallel "
        f"GPUs, {layout.micro_batch} a GPU and pass, {passes} {'pass' if passes == 1 else 'passes'}",
        "megatron_flags.sh: Megatron-DeepSpeed's options, and the command that starts the run: bash megatron_flags.sh "
        "MEGATRON_DEEPSPEED_FOLDER",
        "vocabulary/: the tokenizer as Megatron reads it",
        "clusters/ and checkpoints/: written by the run",
    ]
    if plan.variant.curriculum:
        files.append(f"samples, which the difficulty index counts: {places.samples}")
    if takes_our_windows(export):
        files.append("samples.dsc: must stay; without it Megatron makes its own samples over the given files")
    if plan.variant.selections:
        files.append(f"difficulty indexes, in the form of DeepSpeed's analyser: {places.index}")
    return files


def deviations(export: Export) -> list[str]:
    """What the exported files cannot say, as far as it concerns this run."""
    plan = export.plan
    variant, length = plan.variant, plan.variant.length_curriculum
    notes = [
        f"Durations are whole steps, derived from {nominal_steps(plan):,} nominal ones; an edit of the batch or of the "
        f"tokens in these files does not move them.",
    ]
    if variant.curriculum:
        notes += [
            "Exact resume: a continued run draws other batches than an unbroken one, since DeepSpeed's sampler saves "
            "another generator than its own and rewrites clusters/ as it goes. Keep clusters/ with the checkpoints.",
            "Order of samples: the rule is the same, the draws are not; DeepSpeed's come from a generator that is "
            "carried along, ours from the seed and the step alone.",
            "Loader workers: 0 in both files, and to be left so; more run ahead of the schedule, and a batch of one "
            "step is cut to another's length.",
        ]
    else:
        notes.append("Samples: without a curriculum Megatron makes sample files of its own, from the same seed.")
    if variant.selections:
        notes.append("Short batches: DeepSpeed gives one where a cluster holds too few samples; ours are always full.")
    if length is not None and length.apply == "reshape":
        notes.append(
            "seqlen_reshape: Megatron-DeepSpeed reshapes each micro-batch by itself, so that a step's rows and tokens "
            "depend on --micro-batch; here the global batch is reshaped once."
        )
    if variant.selections and TRAITS[export.run.family].sentence_pairs and length is None:
        notes.append(
            "Padding: Megatron-DeepSpeed trims rows to the longest of the ranks' micro-batches; here to the longest of "
            "the global batch."
        )
    if TRAITS[export.run.family].sentence_pairs:
        notes.append(
            "Masks: the rule is the same, the draws are not; Megatron's are a sample's own at every visit, "
            "ours of the seed, step and row. Megatron projects every place to the vocabulary and ignores all but the "
            "masked ones, which changes no loss and costs time."
        )
    if variant.token_drop is not None:
        notes += [
            "random-LTD needs CUDA and at most 2,048 tokens a row in DeepSpeed, and a checkpoint does not load into "
            "layers that are converted already: plan for a run without interruption.",
            "random-LTD's draws come from each rank's global generator there; here from seed, step, sample and layer.",
        ]
    return notes
