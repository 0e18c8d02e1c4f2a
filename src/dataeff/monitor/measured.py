"""What a canary's few steps say: seconds a step, peak memory, and how long the whole runs would take at that speed.

The speed is operations a second over the steps that were not the first after a start. Whole runs are reckoned by their
plans' operations at it (inquiry/flops.py), so that runs of short lengths and few kept tokens count for what they take.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dataeff.errors import DataeffError
from dataeff.files import read_json
from dataeff.inquiry.text import hours, scientific, short
from dataeff.monitor.reading import last_rows
from dataeff.monitor.trial import Trial
from dataeff.progress import clock
from dataeff.provenance import provenance
from dataeff.study.load import Study

_ALL_ROWS_BYTES = 1_000_000


@dataclass(frozen=True)
class Kill:
    """The last step before the training was killed, and the one that it continued after; None: it was not."""

    after_step: int | None
    resumed_after_step: int | None


def measure(study: Study, trial: Trial, folder: Path, seconds: dict[str, float], kill: Kill) -> dict[str, Any]:
    """The facts of a canary that went through all stages in `folder`."""
    import pandas as pd

    table = pd.read_parquet(folder / "plan/steps.parquet")
    rows = last_rows(folder / "state/run/timings.jsonl", _ALL_ROWS_BYTES)
    times = {int(row["step"]): float(row["seconds"]) for row in rows}
    warm = _warm_steps(list(times), kill)
    if not warm:
        raise DataeffError(f"{folder}: no step to measure; raise STEPS of the canary")
    spent = sum(times[step] for step in warm)
    timings = read_json(folder / "pretrain/timings.json")
    flops = _operations(study, trial, table)
    speed = sum(float(flops[step - 1]) for step in warm) / spent
    tokens = table["effective_tokens"].to_numpy()
    projected = _projected(study, trial, speed)
    return {
        "run": trial.run.name,
        "trial_digest": trial.digest,
        "settings": study.hardware.model_dump(mode="json"),
        **provenance().model_dump(mode="json"),
        "steps": len(table),
        **asdict(kill),
        "stage_seconds": {name: round(value, 2) for name, value in seconds.items()},
        "step_seconds": {"median": median(times[step] for step in warm), "longest": max(times[step] for step in warm)},
        "effective_tokens_per_second": sum(int(tokens[step - 1]) for step in warm) / spent,
        "operations_per_second": speed,
        "startup_seconds": timings["startup_seconds"],
        **{name: value for name, value in timings.items() if name.startswith("peak_")},
        "micro_batch": timings["micro_batch"],
        "world_size": timings["world_size"],
        "projected_hours": projected,
    }


def _warm_steps(steps: list[int], kill: Kill) -> list[int]:
    """All but the first of each start, which meets cold caches and makes buffers."""
    cold = {1, 1 + (kill.resumed_after_step or 0)}
    return [step for step in steps if step not in cold]


def _operations(study: Study, trial: Trial, table: Any) -> Any:
    """Of each step of the canary's plan."""
    from dataeff.inquiry.flops import step_flops
    from dataeff.inquiry.parameters import padded_vocabulary

    spec = trial.pretrain
    vocabulary = padded_vocabulary(study.tokenizers[study.family(trial.run).tokenizer])
    recompute = study.hardware.activation_checkpointing
    return step_flops(
        trial.run.family, spec.model, vocabulary, len(spec.dropped_layers), table, route=spec.route, recompute=recompute
    ).hardware


def _projected(study: Study, trial: Trial, speed: float) -> dict[str, float]:
    """Hours of each run of the default grid and this family, on this hardware; start-up and saving come on top."""
    from dataeff.inquiry.price import costs_of

    runs = [run for run in study.grids[study.grid] if run.family == trial.run.family]
    costs = costs_of(study, runs, recompute=study.hardware.activation_checkpointing)
    return {cost.run.name: cost.flops.total / speed / 3600 for cost in costs}


def told(facts: dict[str, Any]) -> list[str]:
    """The same for people."""
    settings, step, projected = facts["settings"], facts["step_seconds"], facts["projected_hours"]
    where = f"{settings['nodes']} x {settings['processes']} ranks, micro_batch {facts['micro_batch']}"
    gpu_bytes = facts.get("peak_cuda_reserved_bytes")
    of_gpu = f", {gpu_bytes / 1e9:.2f} GB of a GPU's" if gpu_bytes else ""
    memory = f"{facts['peak_memory_bytes'] / 1e9:.2f} GB of host memory{of_gpu}"
    longest = max(projected, key=lambda name: projected[name])
    limit = settings["minutes"] / 60
    over = f"; more than the {limit:g} h of a job, it continues in others" if projected[longest] > limit else ""
    killed = (
        f"killed after step {facts['after_step']}, continued after step {facts['resumed_after_step']}"
        if facts["after_step"] is not None
        else "its steps are too short to be killed in between: continuing was not tried"
    )
    stages = ", ".join(f"{name} {clock(value)}" for name, value in facts["stage_seconds"].items())
    return [
        f"canary {facts['run']}: all stages passed on {where}",
        f"  stages    {stages}",
        f"  training  {facts['steps']} steps; {killed}",
        f"  step      {step['median']:.3g} s (longest {step['longest']:.3g} s), "
        f"{short(facts['effective_tokens_per_second'])} tokens/s, {scientific(facts['operations_per_second'])} FLOP/s",
        f"  memory    {memory} at most, of rank 0",
        f"  whole     {hours(sum(projected.values()))} h for {len(projected)} runs in turn; {longest} alone "
        f"{hours(projected[longest])} h{over}",
    ]
