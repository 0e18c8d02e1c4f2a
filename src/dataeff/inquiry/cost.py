"""`dataeff study cost`: what one run, a grid or the whole study costs to train, before anything is submitted."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from dataeff.errors import unknown_name
from dataeff.families.traits import TRAITS
from dataeff.inquiry.price import Price, RunCost, costs_of, counts_of, price_of
from dataeff.inquiry.text import columns, dollars, hours, labelled, ruled, scientific, short
from dataeff.study.load import Study
from dataeff.study.outside import find_run, study_of
from dataeff.study.types import Run


def run(args: Namespace) -> None:
    price = price_of(args)
    if args.run:
        asked = find_run(args, args.run)
        study, runs, what = asked.study, [asked.run], args.run
    else:
        study = study_of(args)
        runs, what = _runs(study, args)
    costs = costs_of(study, runs, recompute=price.recompute)
    lines = [f"Training cost of {what} at scale {study.scale_name}", "", *cost_table(costs, price), ""]
    lines += labelled(_assumptions(study, runs, price))
    if args.explain:
        lines += ["", *explanation(study, costs)]
    print("\n".join(lines))


def _runs(study: Study, args: Namespace) -> tuple[list[Run], str]:
    if args.all:
        return study.runs, f"all {len(study.runs)} runs of all grids"
    grid = args.grid or study.grid
    if grid not in study.grids:
        raise unknown_name("grid", grid, study.grids, "--grid")
    return study.grids[grid], f"grid {grid}"


def cost_table(costs: Sequence[RunCost], price: Price) -> list[str]:
    """One line a run, and their sum where there are several."""
    headings = ["run", "steps", "raw tok", "eff. tok", "FLOPs", "GPU-hours"]
    headings += [f"on {price.gpus} GPUs"] if price.gpus > 1 else []
    headings += ["cost"] if price.dollars_per_gpu_hour is not None else []
    lines = [headings]
    for cost in costs:
        tokens = [f"{cost.steps:,}", short(cost.raw_tokens), short(cost.effective_tokens)]
        lines.append([cost.run.name, *tokens, *_priced(cost.flops.total, price)])
    if len(costs) == 1:
        return ruled(columns(lines))
    steps, raw, effective = (
        sum(getattr(cost, of) for cost in costs) for of in ("steps", "raw_tokens", "effective_tokens")
    )
    total = sum(cost.flops.total for cost in costs)
    lines.append([f"{len(costs)} runs", f"{steps:,}", short(raw), short(effective), *_priced(total, price)])
    table = ruled(columns(lines))
    return [*table[:-1], table[1], table[-1]]


def _priced(operations: float, price: Price) -> list[str]:
    needed = price.gpu_hours(operations)
    cells = [scientific(operations), hours(needed)]
    cells += [f"{hours(needed / price.gpus)} h"] if price.gpus > 1 else []
    rate = price.dollars_per_gpu_hour
    return [*cells, *([] if rate is None else [dollars(needed * rate)])]


def _assumptions(study: Study, runs: Sequence[Run], price: Price) -> list[tuple[str, str]]:
    """What the numbers rest on, printed with them always."""
    gpu = price.gpu
    what = "of all operations, recomputed ones included" if price.recompute else "model operations only (MFU)"
    pairs = [
        ("GPU", f"{gpu.name}, {gpu.peak_teraflops:g} TFLOP/s dense bf16 or fp16 ({gpu.source})"),
        ("utilisation", f"{price.utilisation:.0%} of that, {what}; an assumption, --mfu states another"),
    ]
    if price.dollars_per_gpu_hour is not None:
        pairs.append(("price", f"${price.dollars_per_gpu_hour:g} a GPU-hour"))
    families = list(dict.fromkeys(run.family for run in runs))
    for family in families:
        example = next(run for run in runs if run.family == family)
        counts = counts_of(study, example)
        pairs.append((f"{family} model", f"{counts.total:,} parameters, {counts.layers:,} of them in the layers"))
    pairs += [("counted as", "; ".join(found))] if (found := _conventions(study, runs)) else []
    if any(study.scale.families[family].precision == "fp32" for family in families):
        pairs.append(("precision", f"scale {study.scale_name} trains in fp32, which is slower than this peak"))
    without = "tokenising, analysis, held-out probes, evaluation and finetuning; time lost to checkpoints and failures"
    return [*pairs, ("not included", without)]


def _conventions(study: Study, runs: Sequence[Run]) -> list[str]:
    """What the operations of these runs rest on beside the formula."""
    bert = [study.variant(run) for run in runs if TRAITS[run.family].sentence_pairs]
    variants = [study.variant(run) for run in runs]
    found = {
        "bert predicts at the masked places alone, 15% of a row": bool(bert),
        "bert's rows are full, though steps of selected samples are trimmed to the longest of them": any(
            variant.selections and variant.length_curriculum is None for variant in bert
        ),
        "a window costs its blocks, though here the whole square is masked": any(
            variant.window is not None for variant in variants
        ),
        "lengths are drawn as if every bucket held as many tokens": any(
            variant.length_buckets is not None for variant in variants
        ),
    }
    return [text for text, concerns in found.items() if concerns]


def explanation(study: Study, costs: Sequence[RunCost]) -> list[str]:
    """The formula, and its terms for each run."""
    lines = [
        "FLOPs are those of matrix products, 2 per multiply-add, summed over the rows of each run's plan;",
        "h hidden size, V padded vocabulary, L layers of which n drop tokens, s tokens a row, k kept:",
        "  step      = 3 x rows x (weights + attention + head)      backward is twice forward",
        "  weights   = 24 h^2 ((L - n) s + n k)                      12 h^2 weights a layer",
        "  attention = 4 h ((L - n) s^2 + n k^2)                     all pairs, a causal mask's too",
        "  head      = 2 h V s (gpt);  (2 h V + 2 h^2) 0.15 s + 2 h^2 + 4 h (bert: at masked places)",
        "  whole samples dropped: those that are kept at full length, s for k and s^2 for k^2",
        "  a window of w: s / w blocks of w^2 for s^2; of dropped tokens, the mean over their draws",
        "  --recompute adds rows x (weights + attention): the layers' forward pass once more",
        "",
    ]
    terms = ["weights", "attention", "head", *(["recomputed"] if costs[0].flops.recomputed else []), "total"]
    rows = [["run", *terms, "total / 6ND"]]
    for cost in costs:
        counts = counts_of(study, cost.run)
        rule_of_thumb = 6 * (counts.total - counts.position_embedding) * cost.effective_tokens
        values = [scientific(getattr(cost.flops, term)) for term in terms]
        rows.append([cost.run.name, *values, f"{cost.flops.total / rule_of_thumb:.2f}"])
    lines += ruled(columns(rows))
    return [*lines, "", "6ND: N parameters without those of positions, D effective tokens; it leaves attention out."]
