"""JSON schemas of the files of config/, generated from the types; a test checks that the committed ones are current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from dataeff.files import write_if_changed
from dataeff.study.base import Frozen
from dataeff.study.load import CorporaFile, TasksFile
from dataeff.study.types import Config, Scale, Variant


def _extendable(schema: dict[str, Any]) -> dict[str, Any]:
    """A file's entries may name parents and then leave out, at any depth, what these give."""
    names = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    optional = _without_required(schema)
    return {**optional, "properties": {**optional["properties"], "extends": names}}


def _without_required(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_required(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _without_required(value)
        for key, value in node.items()
        if not (key == "required" and isinstance(value, list))
    }


def schemas() -> dict[str, dict[str, Any]]:
    """One schema per kind of file, by the schema's file name."""

    def of(model: type[Frozen]) -> dict[str, Any]:
        return TypeAdapter(model).json_schema()

    variant = _extendable(of(Variant))
    definitions = variant.pop("$defs")
    variants = {
        "type": "object",
        "title": "Variants",
        "additionalProperties": {"anyOf": [variant, {"type": "null"}]},
        "$defs": definitions,
    }
    return {
        "config.schema.json": of(Config),
        "corpora.schema.json": of(CorporaFile),
        "scale.schema.json": _extendable(of(Scale)),
        "tasks.schema.json": of(TasksFile),
        "variants.schema.json": variants,
    }


def write_schemas(folder: Path) -> list[Path]:
    """Brings the schema files up to date; those that changed."""
    written = []
    for name, schema in schemas().items():
        text = json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"
        if write_if_changed(folder / name, text):
            written.append(folder / name)
    return written
