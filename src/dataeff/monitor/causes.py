"""Why jobs would run: each job that Snakemake lists, traced back to the edits or the missing files it follows from.

Pure functions over the answer of dry_run.py. A cause is a set of changed keys with their old and new values, shared by
all specs that changed in just this way; a thing that is new; or files that are gone, cut off or newer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

RULE_ORDER = (
    *("corpus_fetch", "corpus_fetch_shard", "corpus_shard", "corpus", "datasets", "datasets_ready", "tokens_train"),
    *("tokens", "samples", "analyze_map", "analyze_frequency", "analyze", "plan", "pretrain", "evaluate_items"),
    *("evaluate_heldout", "evaluate", "evaluate_scan", "evaluate_contamination", "finetune", "tables", "figures"),
    "report",
)
_AIMS = ("all", "grid", "analysis", "fetch_eval")
"""Rules that make nothing: targets."""
_MOST_KEYS = 4
Edited = Mapping[str, Sequence[str | None]]


@dataclass(frozen=True)
class Cause:
    """`text`: what changed, in words; `closing`: only what shows a grid as a whole, which follows anything."""

    text: str
    closing: bool = False


@dataclass(frozen=True)
class Group:
    """A cause, what it is about (runs, or specs), and the jobs that follow from it, by rule."""

    cause: Cause
    about: tuple[str, ...]
    jobs: tuple[int, ...]


def spec_causes(edited: Edited) -> dict[str, Cause]:
    """The cause that each edited spec is, by its path below the results."""
    return {path: _cause(path, before, after) for path, (before, after) in edited.items()}


def _cause(path: str, before: str | None, after: str | None) -> Cause:
    wanted = yaml.safe_load(after or "")
    stage, closing = str(wanted["stage"]), "/specs/grid/" in path
    if before is None:
        return Cause("new run" if "run" in wanted else "new", closing)
    present = _mapping(before)
    changed = list(_differences(present, wanted))
    if any(key == "version" for key, _, _ in changed):
        return Cause(f"stage {stage} means something else in this version of dataeff", closing)
    told = [f"{key} {_shown(old)} -> {_shown(new)}" for key, old, new in changed if key != "digest"]
    rest = [f"and {len(told) - _MOST_KEYS} more"] if len(told) > _MOST_KEYS else []
    return Cause(f"{stage}: {', '.join([*told[:_MOST_KEYS], *rest]) or 'written differently'}", closing)


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _differences(old: Any, new: Any, prefix: str = "") -> Iterable[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield prefix, old, new


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    text = text.removesuffix("...").strip()
    return text if len(text) <= 40 else f"{text[:37]}..."


def trace(jobs: Sequence[Mapping[str, Any]], edited: Edited, results: str, rule: str) -> list[Group]:
    """The groups of jobs by cause. A job with several causes is in the group of each; one whose other causes are no
    more than a grid's own text is not in that one's. `rule`: the one that stands for the edited specs.
    """
    causes = spec_causes(edited)
    memory: dict[int, frozenset[Cause]] = {}
    about: dict[Cause, set[str]] = defaultdict(set)

    def of(number: int) -> frozenset[Cause]:
        if number in memory:
            return memory[number]
        job = jobs[number]
        found: set[Cause] = set()
        for other, files in job["after"].items():
            if jobs[int(other)]["rule"] != rule:
                found |= of(int(other))
                continue
            for path in (file.removeprefix(f"{results}/") for file in files):
                found.add(causes[path])
                about[causes[path]].add(_subject(job, path))
        for cause in _own(job, bool(found)):
            found.add(cause)
            about[cause].add(_subject(job))
        memory[number] = frozenset(found)
        return memory[number]

    members: dict[Cause, list[int]] = defaultdict(list)
    for number, job in enumerate(jobs):
        if job["rule"] == rule or job["rule"] in _AIMS or not job["output"]:
            continue
        found = of(number)
        main = [cause for cause in found if not cause.closing] or found
        for cause in main:
            members[cause].append(number)
    return [
        Group(cause, tuple(sorted(about[cause])), tuple(numbers))
        for cause, numbers in sorted(members.items(), key=lambda pair: _place(pair[1], jobs))
    ]


def _own(job: Mapping[str, Any], has_cause: bool) -> list[Cause]:
    """Causes that are no edit: files newer than what was made of them, and, where nothing else is told, the rest."""
    reason = job["reason"]
    if "newer" in reason:
        return [Cause("changed since: " + _files(reason["newer"]))]
    if has_cause or not reason:
        return []
    if "cut off" in reason:
        return [Cause("cut off, or under way now")]
    if "missing" in reason:
        return [Cause(f"{job['rule']}: not there (never made, or deleted)")]
    return [Cause(f"{job['rule']}: {'parameters' if 'parameters' in reason else 'the set of inputs'} changed")]


def _files(paths: Sequence[str]) -> str:
    return ", ".join(paths[:2]) + (f" and {len(paths) - 2} more" if len(paths) > 2 else "")


def _subject(job: Mapping[str, Any], path: str = "") -> str:
    """What a cause is about: the run or item of the job, or the spec's own name."""
    wildcards = job["wildcards"]
    for name in ("run", "item", "tokenizer", "dataset", "finetuning", "group", "source", "grid"):
        if name in wildcards and (not path or wildcards[name] in path):
            return str(wildcards[name])
    return path.rsplit("/", 1)[-1].removesuffix(".yaml") if path else str(job["rule"])


def _place(numbers: Sequence[int], jobs: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Groups in the order of the stages that they begin with, large ones first."""
    return min(_order(jobs[number]["rule"]) for number in numbers), -len(numbers)


def _order(rule: str) -> int:
    return RULE_ORDER.index(rule) if rule in RULE_ORDER else len(RULE_ORDER)


def counted(numbers: Sequence[int], jobs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many jobs of each rule, in the order of the stages."""
    rules = [str(jobs[number]["rule"]) for number in numbers]
    return {rule: rules.count(rule) for rule in sorted(set(rules), key=lambda name: (_order(name), name))}
