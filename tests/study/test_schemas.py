"""The committed JSON schemas are those of the types, and accept and refuse what the study does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dataeff.study.schemas import schemas, write_schemas
from tests.factory import ROOT

FILES = {
    "config.schema.json": ["config.yaml"],
    "corpora.schema.json": ["corpora.yaml"],
    "tasks.schema.json": ["tasks.yaml"],
    "scale.schema.json": [f"scales/{path.name}" for path in sorted((ROOT / "config/scales").glob("*.yaml"))],
    "variants.schema.json": [f"variants/{path.name}" for path in sorted((ROOT / "config/variants").glob("*.yaml"))],
}


def committed(name: str) -> Any:
    return json.loads((ROOT / "config/schemas" / name).read_text())


def test_the_committed_schemas_are_current(tmp_path: Path) -> None:
    written = write_schemas(tmp_path)
    assert {path.name for path in written} == {path.name for path in (ROOT / "config/schemas").iterdir()}
    for path in written:
        current = (ROOT / "config/schemas" / path.name).read_text()
        assert path.read_text() == current, f"config/schemas/{path.name} is old: run `make schemas`"
    assert write_schemas(tmp_path) == []


def test_every_kind_of_file_has_a_schema() -> None:
    assert set(schemas()) == set(FILES)
    for name in FILES:
        jsonschema.Draft202012Validator.check_schema(committed(name))


@pytest.mark.parametrize(("schema", "file"), [(schema, file) for schema in FILES for file in FILES[schema]])
def test_the_project_s_files_fit(schema: str, file: str) -> None:
    raw = yaml.safe_load((ROOT / "config" / file).read_text())
    assert not list(jsonschema.Draft202012Validator(committed(schema)).iter_errors(raw))


@pytest.mark.parametrize(
    ("schema", "raw"),
    [
        ("config.schema.json", {"scale": "tiny", "grids": {"a": []}, "seeds": [1]}),
        ("config.schema.json", {"scale": "tiny", "grids": {}, "seeds": [1], "sead": 2}),
        ("config.schema.json", {"scale": "tiny", "grids": {}, "seeds": ["1"]}),
        ("scale.schema.json", {"extends": "tiny", "hardware": {"microbatch": 1}}),
        ("scale.schema.json", {"extends": "tiny", "families": {"gpt": {"model": {"layers": 0}}}}),
        ("variants.schema.json", {"a": {"token_drop": {"pacing": {"start": "one", "end": 1, "over": 1}}}}),
        ("variants.schema.json", {"a": {"extends": 3}}),
        ("tasks.schema.json", {"tasks": {"a": {"kind": "none", "about": ""}}}),
        ("corpora.schema.json", {"sources": {}, "corpora": {}}),
    ],
)
def test_a_wrong_file_does_not_fit(schema: str, raw: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, committed(schema))


@pytest.mark.parametrize(
    ("schema", "raw"),
    [
        ("scale.schema.json", {"about": "larger", "extends": "tiny", "families": {"gpt": {"model": {"layers": 8}}}}),
        ("scale.schema.json", {"about": "half", "extends": "tiny", "evaluation": {"items": 5}}),
        ("variants.schema.json", {"a": None, "b": {"extends": ["a"], "token_drop": {"pacing": {"over": 0.5}}}}),
        (
            "config.schema.json",
            {
                "scale": "tiny",
                "seeds": [1],
                "grids": {"a": [{"family": "gpt", "variants": ["ltd"], "data": ["2/3", 0.5]}]},
                "variants": {"gpt": {"ltd": {"token_drop": {"pacing": {"over": "1/2"}}}}},
            },
        ),
    ],
)
def test_a_difference_to_a_parent_fits(schema: str, raw: Any) -> None:
    """A file that extends another states its difference only, at any depth."""
    assert not list(jsonschema.Draft202012Validator(committed(schema)).iter_errors(raw))
