"""Result folders as the stages leave them, made of formulas: what tables, figures and report are tested on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataeff import keyed
from dataeff.admission import Admission
from dataeff.evaluate.definitions import shots_of
from dataeff.evaluate.records import write_records
from dataeff.evaluate.rescore import standard_error, task_items
from dataeff.evaluate.scores import (
    DomainLoss,
    HeldoutScores,
    Loss,
    MaskedDomainLoss,
    MaskedHeldoutScores,
    MaskedLoss,
    Scores,
    TaskScore,
    write_scores,
)
from dataeff.files import canonical_digest, read_yaml, write_json, write_manifest, write_text
from dataeff.finetune.aggregate import best_epoch, honest_rule, published_rule
from dataeff.finetune.scores import ColumnItems, EpochValues, FinetuneScores, Trial
from dataeff.order import SampleOrder
from dataeff.provenance import Machine
from dataeff.study.base import FamilyName
from dataeff.study.load import extend
from dataeff.study.published import published_of, read_published
from dataeff.study.specs import GridSpec
from dataeff.study.tasks import FinetuneTask, HarnessTask, HeldoutTask, Task
from dataeff.study.types import Model, Run, Variant

ROOT = Path(__file__).resolve().parents[1]
FULL = ["baseline", "cl_seqtru", "cl_seqres", "cl_voc", "cl_seqtru_voc", "ltd", "composed"]
HALF = ["baseline", "composed", "baseline_flat_lr", "composed_flat_lr"]
DOMAINS = [
    "PubMed Abstracts",
    "Gutenberg (PG-19)",
    "Wikipedia (en)",
    "GitHub & <code>",
    "Legal_text",
    "Mathematics",
]
BYTES_PER_TOKEN = 3.1
SOFTWARE = {"python": "3.11.2", "torch": "2.13.0", "deepspeed": "0.19.8", "transformers": "5.23.0"}
MACHINE = Machine(cpu="A <test> processor", cores=2, gpu=None)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LENGTH, BATCH, NOMINAL_STEPS = 256, 8, 220
SAMPLES = 2700
TRAIN_TOKENS = LENGTH * BATCH * NOMINAL_STEPS


def project_variants(family: FamilyName) -> dict[str, Variant]:
    raw = read_yaml(ROOT / "config" / "variants" / f"{family}.yaml")
    return {name: Variant.model_validate(extend(raw, name, "variants")) for name in raw}


def grid_spec(seeds: Sequence[int] = (1234,), variants: dict[str, Variant] | None = None) -> GridSpec:
    """The core grid at a tiny scale; `variants` replaces the project's own (then all are run at 100% data)."""
    if variants is None:
        variants = project_variants("gpt")
        pairs = [(Fraction(1), name) for name in FULL] + [(Fraction(1, 2), name) for name in HALF]
    else:
        pairs = [(Fraction(1), name) for name in variants]
    runs = [Run(family="gpt", variant=name, data=data, seed=seed) for data, name in pairs for seed in seeds]
    tasks = {
        "last_word": HeldoutTask(kind="last_word", about="the last word of a passage, word for word"),
        "word_order": HeldoutTask(kind="word_order", about="the true order of the last words among shuffled ones"),
    }
    return GridSpec(
        grid="core",
        scale_name="tiny",
        scale_about="a GPT-2 of 4 layers x 128 on package texts",
        runs=runs,
        variants={"gpt": variants},
        train_tokens={"gpt": TRAIN_TOKENS},
        tokenizers={"gpt": "bpe4k"},
        models={"gpt": Model(layers=4, hidden=128, heads=4, sequence_length=LENGTH)},
        shots=[0, 10],
        tasks=tasks,
        finetuning={},
        published=published_of(read_published(ROOT / "config/papers"), runs),
    )


def both_families(seeds: Sequence[int] = (1234,)) -> GridSpec:
    """Two variants and the baseline of each family at 100% data, and its composition at half of it."""
    spec = grid_spec(seeds)
    runs = [
        Run(family=family, variant=name, data=data, seed=seed)
        for family, names in (("gpt", ["baseline", "cl_voc", "ltd"]), ("bert", ["baseline", "cl_seqreo", "ltd"]))
        for data, variants in ((Fraction(1), names), (Fraction(1, 2), ["baseline", "composed"]))
        for name in variants
        for seed in seeds
    ]
    bert = Model(layers=4, hidden=128, heads=4, sequence_length=LENGTH)
    return spec.model_copy(
        update={
            "runs": runs,
            "variants": {**spec.variants, "bert": project_variants("bert")},
            "train_tokens": {"gpt": TRAIN_TOKENS, "bert": TRAIN_TOKENS},
            "tokenizers": {"gpt": "bpe4k", "bert": "wordpiece4k"},
            "models": {**spec.models, "bert": bert},
            "published": published_of(read_published(ROOT / "config" / "papers"), runs),
        }
    )


FINETUNING = {
    "reviews": FinetuneTask(
        about="is a review positive",
        data="reviews",
        table="offline",
        recipe="small",
        inputs=["sentence"],
        evaluation={"Reviews": "validation"},
        stands_in_for="SST-2",
    ),
    "claims": FinetuneTask(
        about="does a claim hold",
        data="claims",
        table="offline",
        recipe="small",
        inputs=["premise", "claim"],
        evaluation={"Claims": "validation", "Later claims": "later"},
    ),
}


def finetuned_grid(seeds: Sequence[int] = (1234,), table: str = "offline") -> GridSpec:
    """Both families, with two tasks of three columns for the runs of BERT."""
    tasks = {name: task.model_copy(update={"table": table}) for name, task in FINETUNING.items()}
    return both_families(seeds).model_copy(update={"finetuning": tasks})


def harness_task(name: str, **changes: Any) -> HarnessTask:
    fields: dict[str, Any] = {"kind": "harness", "about": f"{name} on its own items", "group": "papers", "task": name}
    return HarnessTask(**{**fields, "version": 1.0, "data": name, "metric": "acc", **changes})


def asked_grid(seeds: Sequence[int] = (1234,)) -> GridSpec:
    """The core grid with tasks of the harness: one of the papers', one scored in two ways, and a perplexity."""
    spec = grid_spec(seeds)
    tasks = {
        **spec.tasks,
        "winogrande": harness_task("winogrande", chance=0.5, published_as="winogrande"),
        "triviaqa": harness_task("triviaqa", metric="exact_match", averaged=False),
        "triviaqa_papers": harness_task("triviaqa_papers", published_as="triviaqa", scoring="papers"),
        "wikitext": harness_task(
            "wikitext", metric="word_perplexity", higher_is_better=False, shots=[0], group="language"
        ),
    }
    return spec.model_copy(update={"tasks": tasks})


def only(spec: GridSpec, family: FamilyName) -> GridSpec:
    """The part of a grid that is of one family."""
    runs = [run for run in spec.runs if run.family == family]
    parts = {
        name: {family: getattr(spec, name)[family]} for name in ("variants", "train_tokens", "tokenizers", "models")
    }
    return spec.model_copy(update={"runs": runs, **parts, "published": published_of(spec.published, runs)})


def heldout_loss(run: Run) -> float:
    """A made-up loss: more data helps, longer names of methods help a little, seeds differ; a masked one is lower."""
    noise = keyed.generator(run.seed, f"loss of {run.variant}", round(run.data * 100)).normal(0, 0.01)
    return round(
        (5.0 if run.family == "gpt" else 3.0)
        - 0.3 * math.log2(float(run.data) * 2)
        - 0.012 * (len(run.variant) - 8)
        + noise,
        5,
    )


def order_accuracy(run: Run) -> float:
    """A made-up share of segment pairs whose order is told right."""
    return round(0.8 - 0.04 * heldout_loss(run), 5)


def task_value(run: Run, task: str, shots: int) -> float:
    noise = keyed.generator(run.seed, f"{task} of {run.variant}", round(run.data * 100), shots).integers(-6, 7)
    base = {"last_word": 0.07, "word_order": 0.42}.get(task, 0.3)
    return round(base + 0.001 * shots + 0.005 * int(noise), 4)


def finetuned_value(run: Run, column: str, rate: float, seed: int, epoch: int) -> float:
    """A made-up accuracy: lower losses give higher ones."""
    noise = keyed.generator(run.seed, f"{column} of {run.variant} at {rate}", seed, epoch).integers(-9, 10)
    return round(1.0 - 0.1 * heldout_loss(run) + 0.002 * int(noise), 5)


def finetune_scores(run: Run, name: str, task: FinetuneTask, model_digest: str, **facts: Any) -> FinetuneScores:
    """Two rates, three seeds and two epochs, aggregated as the stage does."""
    trials = [_finetuning(run, task, rate, seed) for rate in (2e-5, 5e-5) for seed in (1234, 1235, 1236)]
    column = {"items": 200, "selection_items": 100, "cut_items": 3}
    return FinetuneScores(
        run=run,
        name=run.name,
        spec_digest=canonical_digest(["finetune", name]),
        model_digest=model_digest,
        task=name,
        about=task.about,
        table=task.table,
        stands_in_for=task.stands_in_for,
        metric=task.metric,
        data_sha256=canonical_digest(task.data),
        train_items=1000,
        cut_train_items=5,
        columns={name: ColumnItems(split=split, **column) for name, split in task.evaluation.items()},
        trials=trials,
        published_rule=published_rule(trials),
        honest_rule=honest_rule(trials),
        seconds=20.0,
        **facts,
    )


def _finetuning(run: Run, task: FinetuneTask, rate: float, seed: int) -> Trial:
    epochs = []
    for epoch in range(2):
        values = {column: finetuned_value(run, column, rate, seed, epoch) for column in task.evaluation}
        first = next(iter(values.values()))
        scored = {column: round(value - 0.01, 5) for column, value in values.items()}
        measured = {"values": values, "decides": first, "selection": first, "scored": scored}
        epochs.append(EpochValues(training_loss=0.6, **measured))
    best = best_epoch([epoch.decides for epoch in epochs])
    facts = {"published_epoch": best, "honest_epoch": best, "steps": 64, "seconds": 3.0}
    return Trial(learning_rate=rate, seed=seed, epochs=epochs, **facts)


def write_results(
    root: Path, spec: GridSpec, benchmarks: bool = True, timed_probes: bool = False
) -> tuple[Path, Path, Path]:
    """(results/{scale}, results/data/{corpus}, corpus.json), filled for every run of the grid. With `timed_probes`, the
    runs noted the time of each probe.
    """
    results, data = root / "results" / spec.scale_name, root / "results" / "data" / "packages"
    for run in spec.runs:
        _write_run(results, spec, run, timed_probes)
    _write_difficulty(data, spec)
    _write_orders(results, data, spec)
    card = data / "corpus.json"
    write_json(card, corpus_card())
    for shard, tokens in (("00", 600_000), ("01", 400_000)):
        counts = {"Wikipedia (en)": {"documents": 40, "tokens": tokens}, "Github": {"documents": 10, "tokens": 100_000}}
        write_json(data / "bpe4k" / "tokens" / f"{shard}.json", {"domains": counts})
    if benchmarks:
        _write_benchmarks(results, data, spec)
    return results, data, card


def _write_run(results: Path, spec: GridSpec, run: Run, timed_probes: bool) -> None:
    steps = _steps(spec, run)
    loss = heldout_loss(run)
    plan, pretrain, evaluate = (results / stage / run.name for stage in ("plan", "pretrain", "evaluate"))
    plan.mkdir(parents=True)
    pq.write_table(pa.table(steps), plan / "steps.parquet")
    count = len(steps["step"])
    totals = {
        "steps": count,
        "raw_tokens": int(steps["raw_tokens"].sum()),
        "effective_tokens": int(steps["effective_tokens"].sum()),
        "epochs": round(count * BATCH / 2700, 6),
    }
    identity = {
        "spec_digest": canonical_digest(run.name),
        "plan_digest": canonical_digest([run.name, "plan"]),
    }
    write_json(
        plan / "plan.json",
        {
            "run": run.name,
            "spec_digest": canonical_digest([run.name, "plan spec"]),
            **totals,
            "nominal_steps": int(NOMINAL_STEPS * run.data),
            "target_tokens": int(TRAIN_TOKENS * run.data),
            "samples_in_corpus": 2700,
            "peak_learning_rate": float(steps["learning_rate"].max()),
            "digest": identity["plan_digest"],
        },
    )
    write_text(pretrain / "metrics.jsonl", "".join(_metric_lines(steps, loss, run)))
    made_with = {"software": SOFTWARE, "hardware": MACHINE.model_dump(), "commit": COMMIT}
    record = {
        "run": run.model_dump(mode="json"),
        "name": run.name,
        **identity,
        "parameters": 1_318_912,
        **totals,
    }
    write_json(
        pretrain / "run.json",
        {**record, "final_training_loss": loss - 0.1, "heldout_loss": loss, **made_with},
    )
    write_json(pretrain / "timings.json", _timings(run, totals, timed_probes))
    write_text(results / "specs" / "pretrain" / f"{run.name}.yaml", "stage: pretrain\n")
    write_text(results / "logs" / "pretrain" / f"{run.name}.log", "step 1\n")
    _write_scores(evaluate, spec, run, loss, made_with)


def training_seconds(run: Run) -> float:
    return round(70.0 * float(run.data) * (0.6 if run.variant.startswith("composed") else 1.0) + run.seed % 7, 3)


def _timings(run: Run, totals: dict[str, Any], timed_probes: bool) -> dict[str, Any]:
    seconds = training_seconds(run)
    noted = sorted(_probed(totals["steps"])) if timed_probes else []
    return {
        "training_seconds": seconds,
        "heldout_points": [
            {"step": step, "training_seconds": round(seconds * step / totals["steps"], 3)} for step in noted
        ],
        "steps_per_second": totals["steps"] / seconds,
        "raw_tokens_per_second": totals["raw_tokens"] / seconds,
        "effective_tokens_per_second": totals["effective_tokens"] / seconds,
        "startup_seconds": 3.0,
        "heldout_seconds": 4.0,
        "checkpoint_seconds": 1.0,
        "peak_memory_bytes": 900_000_000,
        "resumes": 0,
    }


def _write_scores(folder: Path, spec: GridSpec, run: Run, loss: float, made_with: dict[str, Any]) -> None:
    identity: dict[str, Any] = {
        "run": run,
        "name": run.name,
        "spec_digest": canonical_digest("evaluate"),
        "model_digest": canonical_digest([run.name, "weights"]),
        **made_with,
    }
    if run.family == "bert":
        _write_masked(folder, identity, loss, order_accuracy(run))
        for name, tuned in spec.finetuning.items():
            scores = finetune_scores(run, name, tuned, identity["model_digest"], **made_with)
            write_scores(folder.parents[1] / "finetune" / run.name / name / "scores.json", scores)
        return
    domains = {}
    for number, domain in enumerate(DOMAINS):
        noise = keyed.generator(run.seed, f"{domain} of {run.variant}", round(run.data * 100)).normal(0, 0.02)
        nats = round(loss + 0.15 * (number - 2.5) + noise, 5)
        domains[domain] = DomainLoss(**_loss(nats, 10_000 + number), documents=20)
    folder.mkdir(parents=True)
    write_scores(
        folder / "heldout.json",
        HeldoutScores(**identity, domains=domains, overall=Loss(**_loss(loss, 60_015))),
    )
    for group in dict.fromkeys(task.group for task in spec.tasks.values()):
        for shots in spec.shots:
            names = [name for name, task in spec.tasks.items() if task.group == group]
            _write_group(folder / group / f"{shots}shot", spec, run, group, shots, names, identity)


def _write_group(
    folder: Path, spec: GridSpec, run: Run, group: str, shots: int, names: list[str], identity: dict[str, Any]
) -> None:
    asked = [name for name in names if shots in shots_of(spec.tasks[name], spec.shots)]
    records = {name: task_records(run, name, spec.tasks[name].metric, shots) for name in asked}
    folder.mkdir(parents=True)
    scores = {name: _task_score(name, spec.tasks[name], records[name]) for name in asked}
    write_scores(folder / "scores.json", Scores(**identity, group=group, shots=shots, tasks=scores))
    write_records(folder / "items.jsonl.zst", [record for name in asked for record in records[name]])


def task_records(run: Run, task: str, metric: str, shots: int) -> list[dict[str, Any]]:
    """200 items, of which as many are right as `task_value` says; the same ones are easy for every run of a seed."""
    random = keyed.generator(run.seed, f"items of {task}")
    places, noise = random.permutation(200), random.normal(0, 1, 200)
    right = set(places[: round(task_value(run, task, shots) * 200)].tolist())
    records = []
    for number in range(200):
        value: Any = float(number in right)
        if metric == "word_perplexity":
            value = [-(100.0 + 10 * heldout_loss(run) + 5 * noise[number]), 30 + number % 7]
        records.append({"task": task, "doc_id": number, "item": f"{task} {number}", "metrics": {metric: value}})
    return records


def _task_score(name: str, task: Task, records: list[dict[str, Any]]) -> TaskScore:
    of_harness = isinstance(task, HarnessTask)
    perplexity = task.metric == "word_perplexity"
    found = task_items(records, task.metric, "weighted_perplexity" if perplexity else "mean")
    return TaskScore(
        group=task.group,
        task=task.task if of_harness else task.kind,
        harness="0.4.13",
        task_version=1,
        metric=task.metric,
        aggregation=found.aggregation,
        value=found.value,
        standard_error=standard_error(found),
        higher_is_better=task.higher_is_better if of_harness else True,
        chance=task.chance if of_harness else (0.25 if task.kind == "word_order" else 0.0),
        averaged=task.averaged,
        published_as=task.published_as if of_harness else None,
        scoring=task.scoring if of_harness else "today",
        items=200,
        truncated_prompts=0,
        dataset=task.data if of_harness else None,
        data_sha256=canonical_digest(name),
        about=task.about,
    )


def _write_masked(folder: Path, identity: dict[str, Any], loss: float, accuracy: float) -> None:
    """heldout.json of a masked model, which answers no tasks. Its first domain is too short for pairs of segments."""

    def masked(nats: float, tokens: int) -> dict[str, Any]:
        order = {"sentence_order_loss": 0.7, "sentence_order_accuracy": accuracy, "pairs": 40}
        return {"loss": nats, **order, "tokens": tokens, "bytes": round(tokens * BYTES_PER_TOKEN / 0.15)}

    domains = {
        domain: MaskedDomainLoss(**masked(round(loss + 0.1 * (number - 2.5), 5), 1500), documents=20)
        for number, domain in enumerate(DOMAINS)
        if number
    }
    folder.mkdir(parents=True)
    write_scores(
        folder / "heldout.json",
        MaskedHeldoutScores(**identity, domains=domains, overall=MaskedLoss(**masked(loss, 7500))),
    )


def _loss(nats: float, tokens: int) -> dict[str, Any]:
    return {
        "loss": nats,
        "bits_per_byte": round(nats / math.log(2) / BYTES_PER_TOKEN, 6),
        "tokens": tokens,
        "bytes": round(tokens * BYTES_PER_TOKEN),
    }


def _steps(spec: GridSpec, run: Run) -> dict[str, np.ndarray]:
    """A steps table in the plan's schema: the variant's own pacing, cut where the effective tokens are spent."""
    variant, target = spec.variants[run.family][run.variant], int(TRAIN_TOKENS * run.data)
    nominal = int(NOMINAL_STEPS * run.data)
    step = np.arange(4 * nominal)
    length = np.full(len(step), LENGTH)
    if variant.length_curriculum:
        length = _paced(variant.length_curriculum.pacing, step + 1, nominal, LENGTH)
    kept = (
        np.minimum(_paced(variant.token_drop.pacing, step, nominal, LENGTH), length) if variant.token_drop else length
    )
    reshaped = variant.length_curriculum is not None and variant.length_curriculum.apply == "reshape"
    rows = BATCH * (LENGTH // length) if reshaped else np.full(len(step), BATCH)
    effective = rows * ((length * 2 + kept * 2) // 4)
    used = np.cumsum(effective) - effective < target
    step, length, kept, rows, effective = (column[used] for column in (step, length, kept, rows, effective))
    done = np.cumsum(effective)
    peak = 1.5e-3 / (1.0 if variant.lr_scaling == "none" else float(run.data))
    warm = 22_528 * float(run.data)
    decay = 0.5 * (1 + np.cos(np.pi * np.clip((done - warm) / (target - warm), 0, 1)))
    table = {
        "step": step,
        "sequence_length": length,
        "kept_tokens": kept,
        "samples": np.full(len(step), BATCH),
        "rows": rows,
        "raw_tokens": rows * length,
        "effective_tokens": effective,
        "cumulative_raw_tokens": np.cumsum(rows * length),
        "cumulative_effective_tokens": done,
        "learning_rate": np.where(done < warm, peak * done / warm, peak * decay),
        "pool_size": np.full(len(step), 2700),
    }
    for metric, part in variant.selections.items():
        table[f"{metric}_{part.by}"] = _paced(part.pacing, step + 1, nominal, 1)
    return table


def _paced(pacing: Any, step: np.ndarray, nominal: int, unit: int) -> np.ndarray:
    fraction = np.minimum(step / max(1, round(float(pacing.over) * nominal)), 1) ** (1 / pacing.root)
    start, end = float(pacing.start) * unit, float(pacing.end) * unit
    value = np.floor(start + fraction * (end - start)).astype(int)
    return np.maximum(value - value % pacing.multiple_of, pacing.multiple_of)


def _probed(count: int) -> set[int]:
    """The steps of the held-out probes in a run of so many."""
    return {round(count * (part + 1) / 10) for part in range(10)}


def _metric_lines(steps: dict[str, np.ndarray], final: float, run: Run) -> list[str]:
    count = len(steps["step"])
    probes = _probed(count)
    lines = []
    for index in range(count):
        share = float(steps["cumulative_effective_tokens"][index] / steps["cumulative_effective_tokens"][-1])
        loss = final + 3.2 * (1 - share) ** 2.5
        row = {
            "step": index + 1,
            "loss": loss,
            "learning_rate": float(steps["learning_rate"][index]),
            "gradient_norm": 1.0,
            "sequence_length": int(steps["sequence_length"][index]),
            "kept_tokens": int(steps["kept_tokens"][index]),
            "raw_tokens": int(steps["cumulative_raw_tokens"][index]),
            "effective_tokens": int(steps["cumulative_effective_tokens"][index]),
        }
        if index + 1 in probes:
            row["heldout_loss"] = loss
        lines.append(json.dumps(row) + "\n")
    return lines


def _write_difficulty(data: Path, spec: GridSpec) -> None:
    for family, variants in spec.variants.items():
        for metric in sorted({metric for variant in variants.values() for metric in variant.selections}):
            folder = (
                data / spec.tokenizers[family] / f"{family}-{spec.models[family].sequence_length}" / "analyze" / metric
            )
            folder.mkdir(parents=True)
            random = keyed.generator(1, "difficulty")
            value = np.concatenate([random.normal(1650, 120, SAMPLES - 500), random.normal(1100, 60, 500)]).astype(
                np.int64
            )
            np.save(folder / "value.npy", value)
            np.save(folder / "order.npy", np.argsort(value, kind="stable"))
            ends = {"min": int(value.min()), "max": int(value.max())}
            write_json(folder / "index.json", {"metric": metric, "samples": len(value), **ends})
            write_manifest(folder)


def _write_orders(results: Path, data: Path, spec: GridSpec) -> None:
    """The sample order of every run that selects by the percentile of one metric."""
    for run in spec.runs:
        selections = spec.variants[run.family][run.variant].selections
        plan = results / "plan" / run.name
        if len(selections) != 1 or next(iter(selections.values())).by != "percentile":
            continue
        (metric,) = selections
        item = data / spec.tokenizers[run.family] / f"{run.family}-{spec.models[run.family].sequence_length}"
        percentiles = pq.read_table(plan / "steps.parquet").column(f"{metric}_percentile").to_numpy()
        pools = np.maximum.accumulate(np.maximum(percentiles * SAMPLES // 100, 1))
        admission = Admission.of_index(item / "analyze" / metric)
        order = SampleOrder.build(seed=run.seed, batch_size=BATCH, pool_sizes=pools, admission=admission)
        order.save(plan / "order.json")


def _write_benchmarks(results: Path, data: Path, spec: GridSpec) -> None:
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    for run in spec.runs:
        for stage, seconds, memory in (
            ("plan", "1.5", "-"),
            ("pretrain", f"{training_seconds(run) + 8}", "910.5"),
        ):
            line = f"{seconds}\t0:01:00\t{memory}\t3000\t700\t700\t10\t10\t99.0\t60.0\n"
            write_text(results / "benchmarks" / stage / f"{run.name}.tsv", head + line)
    shared = ["sources/benchmarks/pubmed", "packages/benchmarks/corpus", "packages/benchmarks/items-last_word"]
    shared += [f"packages/bpe4k/benchmarks/tokens-0{shard}" for shard in (0, 1)]
    shared.append("packages/bpe4k/gpt-256/benchmarks/analyze-vocab_rarity")
    for path in shared:
        write_text(data.parent / f"{path}.tsv", head + "4.25\t0:00:04\t210.0\t1\t1\t1\t1\t1\t1\t1\n")
    write_text(results / "benchmarks" / "report" / "index.tsv", head + "1\t0:00:01\t1\t1\t1\t1\t1\t1\t1\t1\n")


def corpus_card() -> dict[str, Any]:
    """A data card in the form that corpus.build gives it, one source a domain."""
    size = {"documents": 1200, "bytes": 2_500_000}
    held = {"documents": 60, "bytes": 120_000}
    sources = {
        f"source_{number}": {
            "domain": domain,
            "about": f"texts for {domain}",
            "licence": "CC-BY-SA-4.0",
            "stands_in_for": [
                "PubMed Abstracts",
                "PG-19",
                "Wikipedia",
                "GitHub",
                "FreeLaw",
                "DM Mathematics",
            ][number],
            "files": [{"name": f"package_{number}-1.0.whl", "bytes": 5_000_000, "sha256": canonical_digest(number)}],
            "documents_read": 2000,
            "stopped_early": number == 0,
            "dropped": {"empty": 1, "short": 200, "not_utf8": 0, "duplicate": 30, "over_limit": 509},
            "training": size,
            "heldout": held,
        }
        for number, domain in enumerate(DOMAINS)
    }
    return {
        "corpus": "packages",
        "digest": canonical_digest("packages"),
        "about": "six kinds of text from packages",
        "seed": 1234,
        "shards": 1,
        "training": {"documents": 7200, "bytes": 15_000_000},
        "heldout": {"documents": 360, "bytes": 720_000},
        "domains": {
            domain: {"slug": f"domain_{number}", "training": size, "heldout": held}
            for number, domain in enumerate(DOMAINS)
        },
        "sources": sources,
        "files": {"shards/00000.jsonl.zst": {"bytes": 5_000_000, "sha256": canonical_digest("shard")}},
    }
