"""From the files of config/ (and a user's own) to one frozen Study: names resolved, `extends` applied, all checked.

The only reader of config/. Raw dictionaries live between `read_yaml` and the typed objects, nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import Field

from dataeff.errors import DataeffError, unknown_name
from dataeff.files import canonical_digest, read_json, read_yaml, write_if_changed
from dataeff.study.base import FamilyName, Frozen
from dataeff.study.faults import validate
from dataeff.study.fetches import PathFetch
from dataeff.study.published import PublishedResults, read_published
from dataeff.study.tasks import Dataset, FinetuneRecipe, FinetuneTask, HarnessTask, Task, TasksFile
from dataeff.study.types import Config, Corpus, FamilyScale, Hardware, Run, Scale, Source, Tokenizer, Variant

AnyModel = TypeVar("AnyModel")
KeyPath = tuple[str, ...]
Layout = Literal["packed", "buckets"]
"""How samples are cut from documents: one after the other in one length, or each by itself in several."""


class CorporaFile(Frozen):
    """config/corpora.yaml"""

    sources: dict[str, Source]
    corpora: dict[str, Corpus]
    tokenizers: dict[str, Tokenizer]


class Study(Frozen):
    """Everything that is to be run, resolved: the one object that specs are cut from."""

    scale_name: str
    scale: Scale
    grid: str
    grids: dict[str, list[Run]]
    unrunnable: dict[str, str] = Field(description="grids that this scale is too small for, and why")
    results: str
    cache: str | None
    hardware: Hardware
    variants: dict[str, dict[str, Variant]]
    sources: dict[str, Source]
    corpora: dict[str, Corpus]
    tokenizers: dict[str, Tokenizer]
    harness: str = Field(description="version of lm-eval")
    datasets: dict[str, Dataset]
    tasks: dict[str, Task]
    recipes: dict[str, FinetuneRecipe]
    finetuning: dict[str, FinetuneTask]
    published: PublishedResults = Field(description="the papers' results, to stand beside ours")
    config_digest: str = Field(description="of this study, less this field")

    @property
    def corpus(self) -> Corpus:
        return self.corpora[self.scale.corpus]

    @property
    def runs(self) -> list[Run]:
        """Every run of every grid, once."""
        return list({run.name: run for runs in self.grids.values() for run in runs}.values())

    def family(self, run: Run) -> FamilyScale:
        return self.scale.families[run.family]

    def variant(self, run: Run) -> Variant:
        return self.variants[run.family][run.variant]

    @property
    def data_items(self) -> dict[str, tuple[FamilyName, Layout]]:
        """`bpe4k/gpt-256`, `bpe4k/gpt-256-buckets`: what samples depend on beside the corpus; its family and layout.

        Those in buckets are there where a run takes them.
        """
        made: list[tuple[FamilyName, Layout]] = [(family, "packed") for family in self.scale.families]
        made += [(run.family, self.layout(run)) for run in self.runs]
        return {self.data_item(family, layout): (family, layout) for family, layout in made}

    @property
    def analysed_items(self) -> dict[str, FamilyName]:
        """The data items that difficulty is computed for: samples of one length."""
        return {item: family for item, (family, layout) in self.data_items.items() if layout == "packed"}

    def data_item(self, family: FamilyName, layout: Layout = "packed") -> str:
        part = self.scale.families[family]
        item = f"{part.tokenizer}/{family}-{part.model.sequence_length}"
        return item if layout == "packed" else f"{item}-{layout}"

    def layout(self, run: Run) -> Layout:
        """Of the samples that a run reads."""
        return "packed" if self.variant(run).length_buckets is None else "buckets"

    def metrics(self, family: FamilyName) -> list[str]:
        """The difficulty metrics of a family that runs select by or that the scale asks for, each once."""
        selected = [metric for run in self.runs if run.family == family for metric in self.variant(run).selections]
        return list(dict.fromkeys([*selected, *self.scale.families[family].metrics]))

    def find_run(self, name: str) -> Run:
        for run in self.runs:
            if run.name == name:
                return run
        raise unknown_name("run", name, [run.name for run in self.runs], "this study")

    def freeze(self, folder: Path) -> Path:
        """Writes the study under its digest, so that cluster jobs read this one and not later edits."""
        path = folder / f"{self.config_digest[:16]}.json"
        write_if_changed(path, self.model_dump_json(indent=1) + "\n")
        return path

    @classmethod
    def thaw(cls, path: Path) -> Study:
        study = validate(cls, read_json(path), str(path))
        if _digest(study.model_dump(mode="json")) != study.config_digest:
            raise DataeffError(f"{path}: its content does not match its digest; run snakemake again from the start")
        return study


def _digest(dump: dict[str, Any]) -> str:
    return canonical_digest({key: value for key, value in dump.items() if key != "config_digest"})


def _read_folder(folder: Path) -> dict[str, Any]:
    """Every .yaml of a folder by its name without the suffix."""
    return {path.stem: _read_mapping(path) for path in sorted(folder.glob("*.yaml"))}


def _read_mapping(path: Path) -> dict[str, Any]:
    raw = read_yaml(path)
    if raw is not None and not isinstance(raw, Mapping):
        raise DataeffError(f"{path}: a mapping of keys to values is needed at its top; found {raw!r:.80}")
    return dict(raw or {})


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on it, leaf by leaf; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _leaves(tree: Mapping[str, Any], prefix: KeyPath = ()) -> dict[KeyPath, Any]:
    found: dict[KeyPath, Any] = {}
    for key, value in tree.items():
        path = (*prefix, str(key))
        found |= _leaves(value, path) if isinstance(value, Mapping) and value else {path: value}
    return found


def extend(raw: Mapping[str, Any], name: str, where: str, chain: tuple[str, ...] = ()) -> dict[str, Any]:
    """The entry `name` of `raw` with its parents applied.

    Two parents that set one leaf differently are an error unless the child sets it: which one wins must never
    depend on the order in which they are listed. `about` is a text about one entry and is not inherited.
    """
    if name not in raw:
        raise unknown_name("parent", name, raw, f"{where}.{chain[-1]}.extends")
    if name in chain:
        raise DataeffError(f"{where}.{name}: extends itself through {' -> '.join([*chain, name])}")
    entry = raw[name] or {}
    if not isinstance(entry, Mapping):
        raise DataeffError(f"{where}.{name}: a mapping is needed, found {entry!r}")
    own = {key: value for key, value in entry.items() if key != "extends"}
    parents = entry.get("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise DataeffError(f"{where}.{name}.extends: a name or a list of names is needed, found {parents!r}")
    merged: dict[str, Any] = {}
    set_by: dict[KeyPath, str] = {}
    for parent in parents:
        inherited = extend(raw, parent, where, (*chain, name))
        inherited.pop("about", None)
        for path, value in _leaves(inherited).items():
            other = _conflict(path, value, _leaves(merged))
            if other is not None and not _is_set(path, own):
                present = _leaves(merged)[other]
                raise DataeffError(
                    f"{where}.{name}: parents in conflict: '{set_by[other]}' sets {'.'.join(other)} to {present!r}, "
                    f"'{parent}' sets {'.'.join(path)} to {value!r}; set it in '{name}' or drop a parent"
                )
            set_by[path] = parent
        merged = merge(merged, inherited)
    return merge(merged, own)


def _conflict(path: KeyPath, value: Any, present: Mapping[KeyPath, Any]) -> KeyPath | None:
    """The leaf that another parent has set differently: the same one, or one above or below it."""
    for other, there in present.items():
        shorter, longer = sorted((path, other), key=len)
        above = value if shorter == path else there
        if longer[: len(shorter)] == shorter and above != {} and (shorter != longer or value != there):
            return other
    return None


def _is_set(path: KeyPath, tree: Mapping[str, Any]) -> bool:
    """Whether `tree` decides the value at `path`: it has a leaf there or above."""
    return any(path[: len(leaf)] == leaf and value != {} for leaf, value in _leaves(tree).items())


def _entry(table: Mapping[str, AnyModel], kind: str, name: str, where: str) -> AnyModel:
    if name not in table:
        raise unknown_name(kind, name, table, where)
    return table[name]


def load_study(raw_config: Mapping[str, Any], root: Path) -> Study:
    """The study that a configuration (already merged by Snakemake) and the files of `root`/config/ describe."""
    where = "config"
    config = validate(Config, dict(raw_config), where)
    folder = root / "config"
    if (folder / "config.yaml").exists():
        read_yaml(folder / "config.yaml")  # Snakemake has read it already, and takes the last of two equal keys
    corpora = validate(CorporaFile, _read_mapping(folder / "corpora.yaml"), str(folder / "corpora.yaml"))
    tasks = validate(TasksFile, _read_mapping(folder / "tasks.yaml"), str(folder / "tasks.yaml"))

    scales = merge(_read_folder(folder / "scales"), config.scales)
    own = config.scale in config.scales
    scale = validate(
        Scale,
        extend(scales, _known(scales, "scale", config.scale), "scales"),
        "config" if own else str(folder / "scales" / f"{config.scale}.yaml"),
        inside=f"scales.{config.scale}" if own else "",
    )
    variants = _load_variants(folder / "variants", config)
    sources = {**corpora.sources, **config.sources}
    all_corpora = {**corpora.corpora, **config.corpora}
    tokenizers = {**corpora.tokenizers, **config.tokenizers}

    from dataeff.corpus.selection import needed_sources

    at = f"scales.{config.scale}"
    corpus = _entry(all_corpora, "corpus", scale.corpus, f"{at}.corpus")
    used_sources = {name: sources[name] for name in needed_sources(scale.corpus, corpus, sources)}
    used_tokenizers = {
        part.tokenizer: _entry(tokenizers, "tokenizer", part.tokenizer, f"{at}.families.{family}.tokenizer")
        for family, part in scale.families.items()
    }
    asked = _asked(tasks, config, scale, at)

    grids: dict[str, list[Run]] = {}
    named: dict[str, Run] = {}
    for name, entries in _grids(config).items():
        grids[name] = _expand(entries, config, scale, variants, name, named)
    hardware = validate(Hardware, {**scale.hardware.model_dump(), **config.hardware}, "config", inside="hardware")
    fields: dict[str, Any] = {
        "scale_name": config.scale,
        "scale": scale,
        "grid": config.grid,
        "grids": grids,
        "results": config.results,
        "cache": config.cache,
        "hardware": hardware,
        "variants": {
            family: {
                run.variant: variants[family][run.variant]
                for runs in grids.values()
                for run in runs
                if run.family == family
            }
            for family in sorted({run.family for runs in grids.values() for run in runs})
        },
        "sources": used_sources,
        "corpora": {scale.corpus: corpus},
        "tokenizers": used_tokenizers,
        **asked,
        "published": read_published(folder / "papers"),
    }
    from dataeff.study.checks import check_study, unrunnable_grids

    study = Study(**fields, unrunnable={}, config_digest="")
    check_study(study)
    faults = unrunnable_grids(study)
    runnable = {name: runs for name, runs in study.grids.items() if name not in faults}
    study = study.model_copy(update={"grids": runnable, "unrunnable": faults})
    return study.model_copy(update={"config_digest": _digest(study.model_dump(mode="json"))})


def _asked(file: TasksFile, config: Config, scale: Scale, at: str) -> dict[str, Any]:
    """The tasks of the scale with their datasets and recipes; each must be there, with those that it names."""
    tables = {
        key: {**getattr(file, key), **getattr(config, key)} for key in ("datasets", "tasks", "recipes", "finetuning")
    }
    tasks = {name: _entry(tables["tasks"], "task", name, f"{at}.evaluation.tasks") for name in scale.evaluation.tasks}
    finetuning = {
        name: _entry(tables["finetuning"], "finetuning task", name, f"{at}.finetuning.tasks")
        for name in scale.finetuning.tasks
    }
    users = {f"tasks.{name}": task for name, task in tasks.items() if isinstance(task, HarnessTask)}
    users |= {f"finetuning.{name}": task for name, task in finetuning.items()}
    return {
        "harness": file.harness,
        "tasks": tasks,
        "finetuning": finetuning,
        "datasets": {
            task.data: _entry(tables["datasets"], "dataset", task.data, f"{where}.data")
            for where, task in users.items()
        },
        "recipes": {
            task.recipe: _entry(tables["recipes"], "recipe", task.recipe, f"finetuning.{name}.recipe")
            for name, task in finetuning.items()
        },
    }


def _known(table: Mapping[str, Any], kind: str, name: str) -> str:
    if name not in table:
        raise unknown_name(kind, name, table, f"config: {kind}")
    return name


def _grids(config: Config) -> dict[str, Any]:
    if config.grid not in config.grids:
        raise unknown_name("grid", config.grid, config.grids, "config: grid")
    return dict(config.grids)


def _load_variants(folder: Path, config: Config) -> dict[str, dict[str, Variant]]:
    tables = {}
    for family in FamilyName.__args__:  # type: ignore[attr-defined]
        path, own = folder / f"{family}.yaml", config.variants.get(family, {})
        raw = merge(_read_mapping(path) if path.exists() else {}, own)
        at = f"variants.{family}"
        tables[family] = {
            name: validate(
                Variant,
                extend(raw, name, at),
                "config" if name in own else str(path),
                inside=f"{at}.{name}" if name in own else name,
            )
            for name in raw
        }
    return tables


def _expand(
    entries: Any,
    config: Config,
    scale: Scale,
    variants: dict[str, dict[str, Variant]],
    grid: str,
    named: dict[str, Run],
) -> list[Run]:
    """The runs of a grid, in the order written, each once; `named` are those of all grids so far."""
    runs: dict[str, Run] = {}
    for number, entry in enumerate(entries):
        at = f"config: grids.{grid}[{number}]"
        if entry.family not in scale.families:
            raise unknown_name("family", entry.family, scale.families, f"{at}.family (at scale '{config.scale}')")
        for data, variant, seed in product(entry.data, entry.variants, entry.seeds or config.seeds):
            _entry(variants[entry.family], "variant", variant, f"{at}.variants")
            run = Run(family=entry.family, variant=variant, data=data, seed=seed)
            runs[run.name] = run
            other = named.setdefault(run.name, run)
            if other != run:
                raise DataeffError(
                    f"{at}: data fractions {other.data} and {run.data} share the name '{run.name}'; "
                    f"use fractions that differ by at least one percent"
                )
    return cast(list[Run], list(runs.values()))


def check_paths(study: Study) -> None:
    """Local sources must exist before the DAG runs."""
    for name, source in study.sources.items():
        if isinstance(source.fetch, PathFetch) and not Path(source.fetch.path).exists():
            raise DataeffError(f"sources.{name}.fetch.path: {source.fetch.path}: no such file or folder")


__all__ = [
    "CorporaFile",
    "Study",
    "TasksFile",
    "check_paths",
    "extend",
    "load_study",
    "merge",
    "validate",
]
