"""The data item of length buckets: made where a run takes it, analysed never, and nothing else changed by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataeff.study import workflow
from dataeff.study.specs import AnalyzeSpec, SamplesSpec, all_specs
from tests.factory import config, load

BUCKETS = {"family": "gpt", "variants": ["length_buckets"]}
BASELINE = {"family": "gpt", "variants": ["baseline", "composed"]}
RUN = "gpt-length_buckets-100-s1234"


def raw(*entries: dict[str, Any]) -> dict[str, Any]:
    return config(scale="smoke", grids={"core": list(entries)})


def test_the_item_is_there_where_a_run_takes_it() -> None:
    study = load(raw(BASELINE, BUCKETS))
    assert study.data_items["bpe4k/gpt-256-buckets"] == ("gpt", "buckets")
    assert study.data_items["bpe4k/gpt-256"] == ("gpt", "packed")
    assert "bpe4k/gpt-256-buckets" not in study.analysed_items
    assert workflow.data_item(study, RUN) == "bpe4k/gpt-256-buckets"
    assert workflow.data_item(study, "gpt-baseline-100-s1234") == "bpe4k/gpt-256"
    assert "bpe4k/gpt-256-buckets" not in load(raw(BASELINE)).data_items


def test_its_samples_have_a_spec_and_its_difficulty_none() -> None:
    specs = all_specs(load(raw(BASELINE, BUCKETS)))
    spec = specs["data/packages_small/specs/bpe4k/gpt-256-buckets/samples.yaml"]
    assert isinstance(spec, SamplesSpec)
    assert (spec.layout, spec.sequence_length, spec.epochs) == ("buckets", 256, 1)
    analysed = [path for path, spec in specs.items() if isinstance(spec, AnalyzeSpec)]
    assert analysed
    assert not [path for path in analysed if "buckets" in path]
    study = load(raw(BASELINE, BUCKETS))
    assert not [path for path in workflow.indexes(study, ["{item}/{metric}"]) if "buckets" in path]


def test_the_specs_of_everything_else_are_the_same() -> None:
    alone, beside = all_specs(load(raw(BASELINE))), all_specs(load(raw(BASELINE, BUCKETS)))
    own = beside.keys() - alone.keys()
    assert {Path(path).name for path in own} == {"samples.yaml", f"{RUN}.yaml"}
    of_grids = {path for path in alone if "/grid/" in path}
    assert all(beside[path] == spec for path, spec in alone.items() if path not in of_grids)


@pytest.mark.parametrize("epochs", [1, 3])
def test_passes_over_the_documents_are_the_order_s(epochs: int) -> None:
    changed = {"scales": {"smoke": {"families": {"gpt": {"epochs": epochs}}}}}
    specs = all_specs(load({**raw(BASELINE, BUCKETS), **changed}))
    packed, in_buckets = (
        specs[f"data/packages_small/specs/bpe4k/gpt-256{layout}/samples.yaml"] for layout in ("", "-buckets")
    )
    assert isinstance(packed, SamplesSpec)
    assert isinstance(in_buckets, SamplesSpec)
    assert (packed.epochs, in_buckets.epochs) == (epochs, 1)
