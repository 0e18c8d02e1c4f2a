"""Every way to change one field of a variant, found from the types themselves: a field that is new is among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dataeff.study.load import Study
from dataeff.study.types import LENGTH_METRIC, Averaging, MetricCurriculum, Pacing, Run, TokenDrop, Variant
from tests.factory import config, load

SELECT = {"apply": "select", "pacing": {"start": 10, "end": 80, "over": "1/2"}}
LENGTH = {"apply": "truncate", "pacing": {"start": "1/4", "end": "3/4", "over": "1/2", "multiple_of": 8}}
DROP = {"pacing": {"start": "1/4", "end": "3/4", "over": "1/2", "multiple_of": 16}}
BASES: dict[str, dict[str, Any]] = {
    "empty": {},
    "select": {"curriculum": {"vocab_rarity": SELECT}},
    "length": {"curriculum": {"seqlen": LENGTH}},
    "drop": {"token_drop": DROP},
    "average": {"final_lr": "1/3", "dropout": 0.2, "averaging": {"kind": "last", "count": 3, "over": "1/4"}},
    "ema": {"averaging": {"kind": "ema", "over": "1/4"}},
}
WHOLE: dict[str, Any] = {
    "token_drop": DROP,
    "averaging": {"kind": "ema", "over": "1/4"},
    "curriculum": {"vocab_rarity": SELECT},
    "final_lr": "1/3",
    "dropout": 0.2,
}
"""What a field that is absent, or a mapping, is set to."""
NESTED: tuple[type[BaseModel], ...] = (Variant, MetricCurriculum, Pacing, TokenDrop, Averaging)
TEXTS = {"about"}
"""Said of a variant, no part of what it does."""


@dataclass(frozen=True)
class Change:
    """One leaf or branch of a base that is set to another value."""

    base: str
    path: tuple[str, ...]
    field: tuple[str, str]
    before: Variant
    after: Variant

    @property
    def name(self) -> str:
        return f"{self.base}: {'.'.join(self.path)}"


def changes(bases: Mapping[str, dict[str, Any]] = BASES) -> list[Change]:
    """All changes of all bases that make a valid variant of gpt, which selects by no length."""
    found = [change for base, raw in bases.items() for change in _changes(base, raw)]
    return [change for change in found if LENGTH_METRIC not in change.after.selections]


def study_of(bases: Mapping[str, dict[str, Any]], found: Sequence[Change]) -> Study:
    """A study at scale tiny, at half of the data, whose variants are the bases and `change0`, `change1`, ..."""
    variants = {base: Variant.model_validate(raw) for base, raw in bases.items()}
    variants |= {f"change{number}": change.after for number, change in enumerate(found)}
    raw = {name: variant.model_dump(mode="json") for name, variant in variants.items()}
    grids = {"core": [{"family": "gpt", "variants": list(raw), "data": [Fraction(1, 2)]}]}
    return load(config(scale="tiny", variants={"gpt": raw}, grids=grids))


def run_of(variant: str) -> Run:
    return Run(family="gpt", variant=variant, data=Fraction(1, 2), seed=1234)


def all_fields() -> set[tuple[str, str]]:
    """Every field of a variant and of what it holds; of those that are models, the fields."""
    fields = {(model.__name__, name): info for model in NESTED for name, info in model.model_fields.items()}
    return {field for field, info in fields.items() if info.annotation not in NESTED and field[1] not in TEXTS}


def _changes(base: str, raw: dict[str, Any]) -> Iterator[Change]:
    before = Variant.model_validate(raw)
    for path, field, values in _places(before, ()):
        for value in values:
            try:
                after = Variant.model_validate(_set(raw, path, value))
            except ValidationError:
                continue
            if after != before:
                yield Change(base, path, field, before, after)
    if before.averaging is not None and before.averaging.count is not None:
        after = Variant.model_validate({**raw, "averaging": BASES["ema"]["averaging"]})
        yield Change(base, ("averaging", "kind"), ("Averaging", "kind"), before, after)


def _places(model: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, str], list[Any]]]:
    """Each field below a model: where it is, its model and name, and other values for it."""
    for name, info in type(model).model_fields.items():
        value, here = getattr(model, name), (*path, name)
        if name in TEXTS:
            continue
        field = (type(model).__name__, name)
        inner = value.values() if isinstance(value, dict) else [value]
        keys = [(*here, key) for key in value] if isinstance(value, dict) else [here]
        for key, part in zip(keys, inner, strict=True):
            if isinstance(part, BaseModel):
                yield from _places(part, key)
        yield here, field, _others(name, value, info.annotation)


def _others(name: str, value: Any, annotation: Any) -> list[Any]:
    if value is None or value == {}:
        return [WHOLE[name]] if name in WHOLE else _members(annotation)
    if isinstance(value, BaseModel | dict):
        return [{} if isinstance(value, dict) else None]
    if isinstance(value, str):
        return [other for other in _members(annotation) if other != value]
    if isinstance(value, Fraction):
        return [str(value * Fraction(4, 5)), *([None] if name in WHOLE else [])]
    return [value * 2 if name == "multiple_of" and value > 1 else value + 1, value / 2, None]


def _members(annotation: Any) -> list[Any]:
    """What a Literal allows, inside of a union too."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return []


def _set(raw: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**raw, path[0]: value}
    return {**raw, path[0]: _set(raw.get(path[0], {}), path[1:], value)}
