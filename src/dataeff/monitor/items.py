"""The items of a study by stage: the files that each is made of and its log, by the names of the rules.

What a study makes is known from its frozen form alone. The names are those of the Snakefile and workflow/rules, which
a test holds against Snakemake's own list.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dataeff.monitor.found_study import FoundStudy
from dataeff.study import workflow as study_of
from dataeff.study.types import FREQUENCY, Run

STAGES = (
    "fetch",
    "corpus",
    "tokens",
    "samples",
    "analyze",
    "plan",
    "pretrain",
    "evaluate",
    "finetune",
    "tables",
    "figures",
    "report",
)


@dataclass(frozen=True)
class Item:
    """What one job makes. `outputs` are there together or not at all; `needed_for`: files whose
    presence makes these unneeded; `identity`: a JSON file among the outputs that names the spec it was made from.
    """

    stage: str
    name: str
    outputs: tuple[Path, ...]
    log: Path
    run: Run | None = None
    needed_for: tuple[Path, ...] = ()
    identity: Path | None = None


def items_of(found: FoundStudy) -> list[Item]:
    """All items of the grid's runs and of the data they need, in the order of the stages."""
    runs = [item for run in found.runs for item in run_items(found, run)]
    return [*_data_items(found), *_questions(found), *runs, *_closing(found)]


def _data_items(found: FoundStudy) -> list[Item]:
    study, data = found.study, found.data
    shards = study_of.shard_names(study)
    corpus = data / "corpus.json"
    items = _fetches(found, corpus)
    if study.corpus.layout == "sharded":
        for shard in shards:
            made = data / f"shards/{shard}.json"
            items += [_fetched(found, study.corpus.sources[0], shard, made)]
            items += [Item("corpus", shard, (made,), data / f"logs/corpus-{shard}.log")]
    items.append(Item("corpus", "card", (corpus,), data / "logs/corpus.log"))
    for name in study_of.tokenizers_of(study, found.grid):
        folder = data / name
        items.append(Item("tokens", name, (folder / "tokenizer/tokenizer.json",), folder / "logs/tokens_train.log"))
        items += [
            Item(
                "tokens",
                f"{name} {shard}",
                tuple(folder / f"tokens/{shard}{suffix}" for suffix in (".bin", ".idx", ".json")),
                folder / f"logs/tokens-{shard}.log",
            )
            for shard in shards
        ]
    for item, metrics in _used(found).items():
        folder = data / item
        files = (folder / "samples/samples.json", folder / "samples/manifest.json")
        items.append(Item("samples", item, files, folder / "logs/samples.log"))
        items += _analyses(folder, item, metrics, len(shards))
    return items


def _used(found: FoundStudy) -> dict[str, list[str]]:
    """The data items that the grid's runs read, and the metrics that these select by."""
    used: dict[str, list[str]] = {}
    for run in found.runs:
        metrics = used.setdefault(study_of.data_item(found.study, run.name), [])
        metrics += [name for name in study_of.metrics_of(found.study, run.name) if name not in metrics]
    return used


def _fetches(found: FoundStudy, corpus: Path) -> list[Item]:
    study, shared = found.study, found.results / "data"
    whole = study_of.read_sources(study)
    if study.corpus.layout == "sharded":
        whole = [name for name in whole if name == study.corpus.heldout_from]
    tokenizers = study_of.tokenizers_of(study, found.grid)
    published = [f"tokenizer_{name}" for name in study_of.fetched_tokenizers(study) if name in tokenizers]
    items = [
        Item("fetch", name, (shared / f"sources/{name}.json",), shared / f"sources/logs/{name}.log", None, (corpus,))
        for name in [*whole, *published]
    ]
    return items + [
        Item("fetch", name, (shared / f"datasets/{name}.json",), shared / f"datasets/logs/{name}.log")
        for name in study.datasets
    ]


def _fetched(found: FoundStudy, source: str, shard: str, made: Path) -> Item:
    """One file of a sharded corpus's source."""
    folder = found.results / "data/sources"
    log = folder / f"logs/{source}-{shard}.log"
    return Item("fetch", f"{source} {shard}", (folder / f"{source}/{shard}.json",), log, needed_for=(made,))


def _analyses(folder: Path, item: str, metrics: list[str], parts: int) -> list[Item]:
    """Parts and counts serve the indexes alone: once those are made, their absence is no work left."""
    indexes = {metric: folder / f"analyze/{metric}/manifest.json" for metric in metrics}
    logs, counts = folder / "logs", folder / "analyze/frequency.npy"
    weighed = tuple(path for metric, path in indexes.items() if study_of.weighs_by_frequency(metric))
    maps = {**({FREQUENCY: counts} if weighed else {}), **indexes}
    items = [
        Item(
            "analyze",
            f"map {metric} {item} {part}",
            tuple(folder / f"map/{metric}/{part}{suffix}" for suffix in (".npy", ".json")),
            logs / f"analyze_map-{metric}-{part}.log",
            needed_for=(made,),
        )
        for metric, made in maps.items()
        for part in range(parts)
    ]
    if weighed:
        items.append(Item("analyze", f"frequency {item}", (counts,), logs / "analyze_frequency.log", None, weighed))
    return items + [
        Item("analyze", f"{metric} {item}", (path,), logs / f"analyze-{metric}.log") for metric, path in indexes.items()
    ]


def _questions(found: FoundStudy) -> list[Item]:
    """Items of tasks that are made from held-out text, and what of the tasks stands in the training text."""
    study, data, scale = found.study, found.data, found.scale
    items = []
    if study_of.prompted(found.runs):
        tasks = [task for group in study_of.groups(study) for task in study_of.heldout_tasks(study, group)]
        items = [
            Item("evaluate", f"items {task}", (data / f"items/{task}/manifest.json",), data / f"logs/items-{task}.log")
            for task in tasks
        ]
    if study.datasets:
        folder, logs = scale / "contamination", scale / "logs/contamination"
        report = folder / "report.json"
        items += [
            Item("evaluate", f"scan {shard}", (folder / f"parts/{shard}.json",), logs / f"{shard}.log", None, (report,))
            for shard in study_of.shard_names(study)
        ]
        items.append(Item("evaluate", "contamination", (report,), logs / "report.log"))
    return items


def run_items(found: FoundStudy, run: Run) -> list[Item]:
    """What is made for one run, the training after its plan and before its evaluations."""
    study, scale, name = found.study, found.scale, run.name
    plan, trained = scale / f"plan/{name}/plan.json", scale / f"pretrain/{name}/run.json"
    heldout = scale / f"evaluate/{name}/heldout.json"
    items = [
        Item("plan", name, (plan,), scale / f"logs/plan/{name}.log", run, identity=plan),
        Item("pretrain", name, (trained,), scale / f"logs/pretrain/{name}.log", run, identity=trained),
        Item("evaluate", f"{name} heldout", (heldout,), scale / f"logs/evaluate/{name}-heldout.log", run),
    ]
    if name in study_of.prompted([run]):
        shots = study.scale.evaluation.shots
        return items + [
            Item(
                "evaluate",
                f"{name} {group}",
                tuple(scale / f"evaluate/{name}/{group}/{count}shot/scores.json" for count in shots),
                scale / f"logs/evaluate/{name}-{group}.log",
                run,
            )
            for group in study_of.groups(study)
        ]
    return items + [
        Item(
            "finetune",
            f"{name} {task}",
            (scale / f"finetune/{name}/{task}/scores.json",),
            scale / f"logs/finetune/{name}-{task}.log",
            run,
        )
        for task in study.finetuning
    ]


def _closing(found: FoundStudy) -> list[Item]:
    scale, grid = found.scale, found.grid
    page = "index" if grid == found.study.grid else grid
    made = {
        "tables": (grid, scale / f"tables/{grid}/quality.csv"),
        "figures": (grid, scale / f"figures/{grid}/captions.json"),
        "report": (page, scale / f"report/{page}.html"),
    }
    return [Item(stage, name, (path,), scale / f"logs/{stage}/{name}.log") for stage, (name, path) in made.items()]
