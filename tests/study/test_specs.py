"""A spec's digest is the identity of what a stage makes: these tests say which edits change which specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.study.load import Study
from dataeff.study.specs import (
    EvaluateSpec,
    PlanSpec,
    PretrainSpec,
    all_specs,
    check_specs,
    dropped_layers,
    pretrain_spec,
    read_spec,
    write_specs,
)
from dataeff.study.types import Variant
from tests.factory import config, edited_config, load, own_scale, path_source

RANDOM_LTD_RUNS = {f"gpt-{name}-s1234" for name in ("ltd-100", "composed-100", "composed-50", "composed_flat_lr-50")}


def core(**changes: Any) -> dict[str, Any]:
    """The default configuration at scale smoke, with the default grid alone."""
    raw = config(**{"scale": "smoke", **changes})
    return {**raw, "grids": {"core": raw["grids"]["core"]}}


def digests(study: Study) -> dict[str, str]:
    return {path: spec.digest for path, spec in all_specs(study).items()}


def changed(raw: dict[str, Any] | None = None, root: Path | None = None) -> set[str]:
    """The specs at scale smoke that an edit changes, without `smoke/specs/` and `.yaml`."""
    raw = core() if raw is None else raw
    before, after = digests(load(core())), digests(load(raw) if root is None else load(raw, root))
    assert set(before) == set(after)
    return {path.removeprefix("smoke/specs/").removesuffix(".yaml") for path in before if before[path] != after[path]}


def smoke(**changes: Any) -> dict[str, Any]:
    return core(scales={"smoke": changes})


# --- what changes what ---------------------------------------------------------------------------------------


def test_the_same_study_has_the_same_specs() -> None:
    assert changed() == set()
    assert len(set(digests(load(core())).values())) == len(digests(load(core())))


@pytest.mark.parametrize(
    "hardware",
    [
        {"processes": 2},
        {"threads": 4},
        {"micro_batch": 2},
        {"zero_stage": 1},
        {"checkpoint_every": 3},
        {"heldout_points": 7},
        {"memory_mb": 9000, "minutes": 5},
    ],
)
def test_hardware_is_no_part_of_any_spec(hardware: dict[str, int]) -> None:
    assert changed(core(hardware=hardware)) == set()
    assert changed(smoke(hardware=hardware)) == set()


def test_results_cache_and_other_scales_are_no_part_of_any_spec() -> None:
    assert changed(core(results="elsewhere", cache="/somewhere")) == set()
    assert changed(core(scales={"mine": {"extends": "tiny"}})) == set()


def test_a_comment_or_a_text_about_a_variant_trains_nothing_again(tmp_path: Path) -> None:
    edits = {"# a comment\nltd:\n  about: another text about": "ltd:\n  about: random layerwise"}
    for new, old in edits.items():
        found = changed(root=edited_config(tmp_path, "variants/gpt.yaml", old, new))
    assert found == {"grid/core"}  # where the text is shown


def test_random_ltd_s_pacing_changes_the_plans_of_runs_that_drop(tmp_path: Path) -> None:
    root = edited_config(tmp_path, "variants/gpt.yaml", "start: 1/16", "start: 1/8")
    assert changed(root=root) == {"grid/core", *(f"plan/{run}" for run in RANDOM_LTD_RUNS)}


def test_layers_kept_whole_change_the_training_too(tmp_path: Path) -> None:
    root = edited_config(tmp_path, "variants/gpt.yaml", "token_drop: {", "token_drop: {keep_first: 0, ")
    runs = {f"{stage}/{run}" for stage in ("plan", "pretrain") for run in RANDOM_LTD_RUNS}
    assert changed(root=root) == {"grid/core", *runs}


def test_shots_change_the_evaluation() -> None:
    assert changed(smoke(evaluation={"shots": [0, 5]})) == {"evaluate/probes", "evaluate/packages", "grid/core"}


def test_a_task_changes_its_items_and_the_evaluation(tmp_path: Path) -> None:
    root = edited_config(tmp_path, "tasks.yaml", "choices: 4", "choices: 3")
    assert changed(root=root) == {"data/packages_small/specs/items-last_word", "evaluate/probes", "grid/core"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # How an item is asked, scored, shown or learnt is nothing to where it stands in the training text.
        (
            "metric: acc\n    chance: 0.5\n  package_vitaminc",
            "metric: acc_norm\n    chance: 0.5\n  package_vitaminc",
            False,
        ),
        ("Which of two ways a quantity changes, without", "Which way a quantity changes, without", False),
        ("evaluation: {QuaRTz: validation}", "evaluation: {QuaRTz: validation}\n    metric: f1", False),
        ("batch_size: 32\n    learning_rates: [2.0e-5, 3", "batch_size: 16\n    learning_rates: [2.0e-5, 3", False),
        ("evaluation: {QuaRTz: validation}", "evaluation: {QuaRTz: train}\n    train: validation", True),
        ("task: package_quartz", "task: package_qasc", True),
    ],
)
def test_contamination_is_of_the_items_alone(tmp_path: Path, old: str, new: str, expected: bool) -> None:
    root = edited_config(tmp_path, "tasks.yaml", old, new)
    found = changed(root=root)
    assert ("contamination" in found) == expected
    assert found & {"evaluate/packages", "finetune/quartz", "finetune/rotten_tomatoes", "grid/core"}


def test_contamination_does_not_know_shots_counts_and_recipes() -> None:
    evaluation, finetuning = {"shots": [0], "items": 7}, {"epochs": 2, "train_items": 9, "seeds": [5]}
    found = changed(smoke(evaluation=evaluation, finetuning=finetuning))
    assert {"evaluate/packages", "finetune/quartz"} <= found
    assert "contamination" not in found


def test_the_peak_changes_every_plan_and_the_optimizer_every_training() -> None:
    runs = {run.name for run in load(core()).runs if run.family == "gpt"}
    family = {"learning_rate": {"peak": 1e-3}}
    assert changed(smoke(families={"gpt": family})) == {f"plan/{run}" for run in runs}
    family = {"adam": {"beta2": 0.99}}
    assert changed(smoke(families={"gpt": family})) == {f"pretrain/{run}" for run in runs}


def test_a_source_changes_its_fetch_and_the_corpus(tmp_path: Path) -> None:
    own = core(sources={"pubmed": path_source(tmp_path)})
    assert changed(own) == {"data/sources/specs/pubmed", "data/packages_small/specs/corpus"}


def test_scales_share_what_depends_on_text_only() -> None:
    shared = {path: digest for path, digest in digests(load(core())).items() if path.startswith("data/")}
    assert shared == {
        path: digest for path, digest in digests(load(core(scale="tiny"))).items() if path.startswith("data/")
    }


def test_one_number_written_two_ways_is_one_spec(tmp_path: Path) -> None:
    root = edited_config(tmp_path, "variants/gpt.yaml", "over: 0.699", "over: 699/1000")
    assert changed(root=root) == set()
    assert changed(smoke(families={"gpt": {"learning_rate": {"peak": 0.003}}})) == set()


def test_dropped_layers_follow_the_depth() -> None:
    drop = {"pacing": {"start": "1/16", "end": 1, "over": 1}}
    assert dropped_layers(Variant.model_validate({"token_drop": drop}), 24) == list(range(1, 23))
    kept = {"token_drop": {**drop, "keep_first": 0, "keep_last": 2}}
    assert dropped_layers(Variant.model_validate(kept), 4) == [0, 1]
    assert dropped_layers(Variant(), 24) == []
    study = load(own_scale(families={"gpt": {"model": {"layers": 6}}}))
    (spec,) = [pretrain_spec(study, run) for run in study.runs if run.name == "gpt-ltd-100-s1234"]
    assert spec.dropped_layers == [1, 2, 3, 4]


# --- files ---------------------------------------------------------------------------------------------------


def test_specs_are_written_once_and_read_back(tmp_path: Path) -> None:
    study = load(core())
    assert len(write_specs(study, tmp_path)) == len(all_specs(study))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.yaml")}
    assert write_specs(study, tmp_path) == []
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.yaml")}
    for path, spec in all_specs(study).items():
        assert read_spec(tmp_path / path, type(spec)) == spec


def test_only_changed_specs_are_written(tmp_path: Path) -> None:
    write_specs(load(core()), tmp_path)
    written = write_specs(load(smoke(evaluation={"shots": [0, 5]})), tmp_path)
    assert sorted(path.name for path in written) == ["core.yaml", "packages.yaml", "probes.yaml"]
    assert sorted(write_specs(load(core()), tmp_path)) == sorted(written)  # and back


def test_a_spec_edited_by_hand_is_refused(tmp_path: Path) -> None:
    write_specs(load(core()), tmp_path)
    path = tmp_path / "smoke/specs/plan/gpt-ltd-100-s1234.yaml"
    text = path.read_text()
    path.write_text(f"# a comment is no edit\n{text}")
    read_spec(path, PlanSpec)
    path.write_text(text.replace("batch_size: 8", "batch_size: 16"))
    with pytest.raises(DataeffError, match=rf"{path}: content and digest do not match .*change config/ instead"):
        read_spec(path, PlanSpec)
    path.write_text(text.replace("batch_size: 8", "batchsize: 8"))
    with pytest.raises(DataeffError, match=rf"{path}: unknown key 'batchsize'; did you mean 'batch_size'"):
        read_spec(path, PlanSpec)
    path.write_text(text.replace("digest:", "# digest:"))
    with pytest.raises(DataeffError, match=rf"{path}: content and digest do not match"):
        read_spec(path, PlanSpec)


def test_a_spec_of_another_stage_is_refused(tmp_path: Path) -> None:
    write_specs(load(core()), tmp_path)
    path = tmp_path / "smoke/specs/plan/gpt-ltd-100-s1234.yaml"
    with pytest.raises(DataeffError, match=rf"{path}: this is a spec of stage 'plan'; one of 'pretrain' is needed"):
        read_spec(path, PretrainSpec)
    for text in ("", "- 1\n", "just text\n"):
        path.write_text(text)
        with pytest.raises(DataeffError, match=str(path)):
            read_spec(path, PlanSpec)
    with pytest.raises(DataeffError, match="nowhere: no such file"):
        read_spec(tmp_path / "nowhere", EvaluateSpec)


def test_a_job_stops_where_a_spec_is_not_its_study_s(tmp_path: Path) -> None:
    study = load(core())
    write_specs(study, tmp_path)
    check_specs(study, tmp_path)
    write_specs(load(smoke(evaluation={"shots": [0, 5]})), tmp_path)
    path = tmp_path / "smoke/specs/evaluate/probes.yaml"
    with pytest.raises(DataeffError, match=rf"{path}: changed since this job was submitted .*nothing was run"):
        check_specs(study, tmp_path)
    path.unlink()
    with pytest.raises(DataeffError, match=rf"{path}: changed since"):
        check_specs(study, tmp_path)


def test_every_spec_names_its_stage_and_digest(tmp_path: Path) -> None:
    study = load(core())
    write_specs(study, tmp_path)
    for path, spec in all_specs(study).items():
        raw = yaml.safe_load((tmp_path / path).read_text())
        assert (raw["stage"], raw["digest"]) == (spec.stage, spec.digest)


# --- the frozen study ----------------------------------------------------------------------------------------


def test_a_frozen_study_thaws_as_it_was(tmp_path: Path) -> None:
    study = load(core())
    path = study.freeze(tmp_path)
    before = path.stat().st_mtime_ns
    assert load(core()).freeze(tmp_path) == path
    assert path.stat().st_mtime_ns == before
    thawed = Study.thaw(path)
    assert thawed == study
    assert digests(thawed) == digests(study)
    assert load(smoke(evaluation={"items": 3})).freeze(tmp_path) != path


@pytest.mark.parametrize("value", ["more", None, 7])
def test_a_frozen_study_that_was_changed_is_refused(tmp_path: Path, value: Any) -> None:
    path = load(core()).freeze(tmp_path)
    write_json(path, {**read_json(path), "grid": value})
    with pytest.raises(DataeffError, match=str(path)):
        Study.thaw(path)
