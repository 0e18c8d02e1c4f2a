"""`dataeff export deepspeed`: a run as the files that Megatron-DeepSpeed trains it from.

- ds_config.json: DeepSpeed's whole configuration of the run: batch, ZeRO, precision, clipping, and `data_efficiency`
  with the curriculum's metrics and random-LTD;
- megatron_flags.sh: the options of pretrain_gpt.py or pretrain_bert.py, and the command that starts it;
- index/: the difficulty indexes in DeepSpeed's form, where the native ones are in the results and no --index-dir is
  given; vocabulary/: the tokenizer as Megatron reads it; samples.dsc: what keeps Megatron from making its own samples;
- README.txt: what stands where, and what of the run DeepSpeed does not do as we do.

Names and meanings are those of DeepSpeed 0.19.8 and Megatron-DeepSpeed f4157be (examples_deepspeed/data_efficiency).
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from dataeff.analyze.deepspeed_format import prefix_of, write_metric
from dataeff.errors import DataeffError
from dataeff.export import megatron, notes
from dataeff.export.ds_config import ds_config, index_kinds
from dataeff.export.limits import check_expressible
from dataeff.export.subject import Export, places_of, spread
from dataeff.files import atomic_directory, write_json, write_text
from dataeff.study.outside import find_run, results_folder
from dataeff.study.specs import plan_spec, pretrain_spec
from dataeff.tokens.indexed_merge import merge

CONFIG, FLAGS, README = "ds_config.json", "megatron_flags.sh", "README.txt"


def run(args: Namespace) -> None:
    for option, value in (("--micro-batch", args.micro_batch), ("--gpus", args.gpus)):
        if value is not None and value < 1:
            raise DataeffError(f"{option} {value}: at least 1 is needed")
    asked = find_run(args, args.run)
    plan, training = plan_spec(asked.study, asked.run), pretrain_spec(asked.study, asked.run)
    layout = spread(plan.batch_size, asked.study.hardware, args.micro_batch, args.gpus, args.zero_stage)
    places = places_of(asked.study, asked.run, results_folder(args, asked.study), args.out, args.index_dir)
    found = Export(asked.study, asked.run, plan, training, layout, places)
    check_expressible(found)
    if args.merge_tokens and len(places.token_prefixes) > 1:
        target = megatron.data_path(found)
        print(f"merged {merge(places.token_prefixes, target):,} tokens: {target}.bin", flush=True)
    print("\n".join(write(found, own_index=args.index_dir is not None)))


def write(export: Export, *, own_index: bool) -> list[str]:
    """Writes the folder whole; the lines that say what is in it and what is still missing."""
    places, plan = export.places, export.plan
    config = ds_config(export)
    if own_index:
        _check_index(export)
    _check_out(places.out, places.index if own_index else None)
    native = {
        metric: places.data / export.study.data_item(export.run.family) / "analyze" / metric
        for metric in plan.variant.selections
    }
    missing = megatron.missing_data(export)
    with atomic_directory(places.out) as folder:
        write_json(folder / CONFIG, config)
        missing += [] if own_index else _write_indexes(native, folder)
        missing += megatron.write_vocabulary(export.study, export.run, places.data, folder / places.vocabulary.name)
        write_text(folder / FLAGS, megatron.flags(export))
        if megatron.takes_our_windows(export):
            write_text(folder / megatron.DESCRIPTION, megatron.description(export))
        write_text(folder / README, notes.readme(export, missing))
        names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    lines = [f"{export.run.name} at scale {export.study.scale_name}: written to {places.out}: {', '.join(names)}"]
    return [*lines, *(f"still missing: {what}" for what in missing)]


def _check_out(out: Path, own_index: Path | None) -> None:
    """The folder is replaced whole, so it may hold nothing but an earlier export: no checkpoints, no foreign files."""
    ours = {CONFIG, FLAGS, README, megatron.DESCRIPTION, "vocabulary", *(() if own_index else ("index",))}
    foreign = sorted(path.name for path in out.iterdir() if path.name not in ours) if out.is_dir() else []
    if foreign or (out.exists() and not out.is_dir()):
        what = f"it holds {foreign[0]}" if foreign else "it is a file"
        raise DataeffError(f"--out {out}: {what}, which an export would remove; give another folder")
    if own_index is not None and own_index.is_relative_to(out):
        raise DataeffError(f"--index-dir {own_index}: it lies in --out, which is replaced; keep the index elsewhere")


def _write_indexes(native: dict[str, Path], folder: Path) -> list[str]:
    """DeepSpeed's form of each native index that is there; what is missing."""
    missing = []
    for metric, index in native.items():
        if (index / "index.json").is_file():
            write_metric(index, folder / "index" / metric)
        else:
            missing.append(f"the index of {metric} ({index}); make it with `snakemake analysis`, then export again")
    return missing


def _check_index(export: Export) -> None:
    """Every file that the configuration names must be at --index-dir."""
    for metric, part in export.plan.variant.selections.items():
        for kind in index_kinds(part):
            prefix = prefix_of(export.places.index / metric, metric, kind)
            for suffix in (".bin", ".idx"):
                if not Path(f"{prefix}{suffix}").is_file():
                    raise DataeffError(
                        f"{prefix}{suffix}: no such file; {export.run.name} selects by {metric}, so --index-dir must "
                        f"hold its index in DeepSpeed's form (without --index-dir it is made from the results)"
                    )
