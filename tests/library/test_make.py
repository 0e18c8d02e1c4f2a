from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.errors import DataeffError
from dataeff.files import write_json, write_manifest
from dataeff.library import make_plan
from dataeff.plan import build_plan
from dataeff.samples import id_type
from dataeff.study.types import LearningRate, MetricCurriculum, Pacing, TokenDrop
from tests.factory import SEQRES, SEQTRU, VOC, small_plan_spec
from tests.library.planning import BATCH, LENGTH, SAMPLES, SELECT, TRUNCATE, small_plan

LTD = {"pacing": {"start": "1/4", "end": 1, "over": "0.7", "multiple_of": 16}}
RARITY = np.random.default_rng(0).integers(0, 300, 2000)
STUDY = {
    "samples": 2000,
    "sequence_length": 64,
    "batch_size": 4,
    "train_tokens": 40 * 4 * 64,
    "layers": 4,
    "learning_rate": {"peak": 1e-3, "minimum": 1e-5, "warmup_tokens": 1024},
    "seed": 1234,
}


def index_of(values: np.ndarray) -> DifficultyIndex:
    return DifficultyIndex("vocab_rarity", values, np.argsort(values, kind="stable").astype(id_type(len(values))))


@pytest.mark.parametrize(
    "methods",
    [
        {},
        {"token_drop": LTD},
        {"curriculum": SEQTRU},
        {"curriculum": SEQRES, "token_drop": LTD},
        {"curriculum": {**SEQTRU, **VOC}, "token_drop": LTD},
        {"curriculum": VOC, "token_drop": {**LTD, "route": "samples"}},
        {"token_drop": LTD, "lr_clock": "layer_tokens"},
    ],
)
def test_equals_the_plan_that_the_study_makes(methods: dict[str, Any]) -> None:
    indexes = {"vocab_rarity": index_of(RARITY)} if "vocab_rarity" in methods.get("curriculum", {}) else {}
    study = build_plan(small_plan_spec(methods), 2000, indexes)
    own = make_plan(**STUDY, **methods, difficulty={"vocab_rarity": RARITY} if indexes else None)
    assert own.steps.equals(study.steps)
    assert own.order.digest == study.order.digest


def test_objects_and_their_words_make_one_plan() -> None:
    pacing = Pacing(start=Fraction(1, 4), end=Fraction(1), over=Fraction(1, 2), multiple_of=8)
    typed = small_plan(
        curriculum={"seqlen": MetricCurriculum(apply="truncate", pacing=pacing)},
        token_drop=TokenDrop(pacing=pacing),
        learning_rate=LearningRate(peak=1e-3, minimum=1e-4),
    )
    words = {"start": "1/4", "end": 1, "over": 0.5, "multiple_of": 8}
    written = small_plan(
        curriculum={"seqlen": {"apply": "truncate", "pacing": words}},
        token_drop={"pacing": words},
        learning_rate={"peak": 1e-3, "minimum": 1e-4},
    )
    assert typed.digest == written.digest


def test_numpys_whole_numbers_are_taken(tmp_path: Path) -> None:
    plan = small_plan(samples=np.int64(SAMPLES), layers=np.int32(4))
    plan.save(tmp_path / "plan")
    assert plan.digest == small_plan().digest


def write_index(folder: Path, values: np.ndarray) -> Path:
    """An index folder, as `dataeff analyze` leaves it."""
    index = index_of(values)
    folder.mkdir()
    np.save(folder / "value.npy", index.values)
    np.save(folder / "order.npy", index.order)
    ends = {"min": int(values.min()), "max": int(values.max())}
    write_json(folder / "index.json", {"metric": "hardness", "samples": len(values), **ends})
    write_manifest(folder)
    return folder


def test_a_folder_of_difficulties_and_their_array_make_one_plan(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 50, SAMPLES)
    folder = write_index(tmp_path / "hardness", values)
    plans = [
        small_plan(curriculum=SELECT, difficulty={"hardness": given})
        for given in (folder, str(folder), values, values.tolist(), values / 7)
    ]
    for plan in plans[1:]:
        assert plan.digest == plans[0].digest
        assert (plan.samples(3) == plans[0].samples(3)).all()


def test_a_fraction_is_admitted_at_the_level_that_reaches_it() -> None:
    values = np.linspace(0.5, 40.5, SAMPLES)
    part = {"apply": "select", "by": "value", "pacing": {"start": 10, "end": 41, "over": "0.6"}}
    plan = small_plan(curriculum={"hardness": part}, difficulty={"hardness": values})
    for step in range(len(plan)):
        level = plan.steps["hardness_value"].iloc[step]
        assert plan.steps["pool_size"].iloc[step] == (values <= level).sum()
        assert (values[plan.samples(step)] <= level).all()


def test_without_a_learning_rate_the_plan_has_none() -> None:
    plan = small_plan(learning_rate=None)
    assert "learning_rate" not in plan.steps
    assert "peak_learning_rate" not in plan.training.facts
    for ask in (lambda: plan.lr(0), lambda: plan.peak_lr):
        with pytest.raises(DataeffError, match=r"made without learning_rate; pass make_plan\(\.\.\., learning_rate="):
            ask()
    assert (plan.samples(2) == small_plan().samples(2)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "make_plan: batch_size: a whole number of at least 1 is needed; found 0"),
        ({"layers": 2.5}, "make_plan: layers: a whole number of at least 1 is needed; found 2.5"),
        ({"seed": -1}, r"make_plan: seed: at least 0 is needed; found -1"),
        ({"max_epochs": float("inf")}, "make_plan: max_epochs: a number above 0 is needed; found inf"),
        ({"train_tokens": 100}, f"100 tokens are less than one step of {BATCH} x {LENGTH}; raise train_tokens"),
        ({"samples": 10}, "would read the corpus of 10 samples 9.6 times; max_epochs is 4"),
        ({"curriculum": {"seqlen": {"aply": "truncate"}}}, "make_plan: curriculum.seqlen: unknown key 'aply'; did you"),
        ({"token_drop": {"pacing": 3}}, "make_plan: token_drop.pacing: a mapping is needed; found 3"),
        ({"learning_rate": {"peak": 1e-3}}, "make_plan: learning_rate.minimum: this key is missing"),
        ({"learning_rate": None, "lr_clock": "layer_tokens"}, "lr_clock is 'layer_tokens', but there is no learning_"),
        ({"curriculum": SELECT}, "nothing for 'hardness', which curriculum.hardness selects samples by; pass diff"),
        ({"difficulty": {"hardness": np.zeros(SAMPLES)}}, "only metrics that select samples are used: unknown metric"),
        (
            {"curriculum": SELECT, "difficulty": {"hardness": np.zeros((SAMPLES, 2))}},
            rf"difficulty.hardness: an array of float64 of shape \({SAMPLES}, 2\); one number for each of",
        ),
        (
            {"curriculum": SELECT, "difficulty": {"hardness": np.array([*range(SAMPLES - 1), np.nan])}},
            f"difficulty.hardness: sample {SAMPLES - 1} has nan; finite numbers below 2\\*\\*63 are needed",
        ),
        (
            {"curriculum": {"seqlen": {**TRUNCATE["seqlen"], "apply": "bucket"}}},
            "make_plan: curriculum.seqlen.apply: 'bucket' needs samples that the study made in length buckets; use tru",
        ),
    ],
)
def test_errors_name_the_argument_the_value_and_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataeffError, match=message):
        small_plan(**changes)
