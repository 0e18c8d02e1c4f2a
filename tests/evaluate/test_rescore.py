from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff import evaluate
from dataeff.errors import DataeffError
from dataeff.evaluate.records import read_records, write_records
from dataeff.evaluate.rescore import AGGREGATIONS, DEFAULTS, TaskItems, rescore, standard_error, task_items
from dataeff.evaluate.scores import read_scores
from tests.evaluate.conftest import MadeUp
from tests.evaluate.local_data import group_spec

ACCURACIES = st.lists(st.sampled_from([0.0, 1.0]) | st.floats(0, 1), min_size=2, max_size=40)
LIKELIHOODS = st.lists(st.floats(-20, 0), min_size=2, max_size=40)
PAIRS = st.lists(st.tuples(st.floats(-500, 0), st.integers(1, 300)), min_size=2, max_size=20)
CLASSES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)


def items(aggregation: str, values: list[Any]) -> TaskItems:
    records = [{"item": str(number), "metrics": {"m": value}} for number, value in enumerate(values)]
    return task_items(records, "m", aggregation)


@settings(deadline=None)  # the harness's metrics are imported in the first example
@given(ACCURACIES)
def test_a_mean_and_its_error_are_the_harness_s(values: list[float]) -> None:
    from lm_eval.api.metrics import mean, mean_stderr

    found = items("mean", values)
    assert found.value == pytest.approx(mean(values), abs=1e-12)
    assert standard_error(found) == pytest.approx(mean_stderr(values), abs=1e-12)


@settings(deadline=None)  # the harness's metrics are imported in the first example
@given(LIKELIHOODS)
def test_a_perplexity_is_the_harness_s(values: list[float]) -> None:
    from lm_eval.api.metrics import perplexity

    assert items("perplexity", values).value == pytest.approx(perplexity(values), rel=1e-12)


@settings(deadline=None)  # the harness's metrics are imported in the first example
@given(PAIRS)
def test_weighted_perplexities_are_the_harness_s(values: list[tuple[float, int]]) -> None:
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity

    if sum(part for part, _ in values) / sum(count for _, count in values) > -700:  # else math.exp overflows
        assert items("weighted_perplexity", values).value == pytest.approx(weighted_perplexity(values), rel=1e-12)
    assert items("bits_per_byte", values).value == pytest.approx(bits_per_byte(values), abs=1e-12)


@settings(deadline=None)  # the harness's metrics are imported in the first example
@given(CLASSES)
def test_f1_and_matthews_are_the_harness_s(values: list[tuple[int, int]]) -> None:
    import warnings

    from lm_eval.api.metrics import f1_score, matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is not defined, where nothing is positive
        assert items("f1", values).value == pytest.approx(f1_score(values), abs=1e-12)
        assert items("matthews_corrcoef", values).value == pytest.approx(matthews_corrcoef(values), abs=1e-12)


def test_every_default_can_be_repeated_and_is_the_harness_s() -> None:
    from lm_eval.api.registry import get_aggregation, get_metric_aggregation

    for metric, aggregation in DEFAULTS.items():
        assert aggregation in AGGREGATIONS
        assert get_metric_aggregation(metric) is get_aggregation(aggregation)


def test_the_error_of_a_perplexity_is_the_spread_over_resamples() -> None:
    """Against plain resampling with Python's own generator; one item has no spread."""
    drawn = random.Random(3)
    values = [drawn.gauss(-3, 1) for _ in range(60)]
    plain = [math.exp(-sum(drawn.choices(values, k=60)) / 60) for _ in range(4000)]
    found = items("perplexity", values)
    assert standard_error(found) == pytest.approx(np.std(plain, ddof=1), rel=0.15)
    assert standard_error(found) == standard_error(found)
    assert standard_error(items("perplexity", values[:1])) is None


@pytest.fixture(scope="module")
def folder(made_up: MadeUp, long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rescore")
    spec = group_spec(made_up.datasets, ["winogrande", "wikitext", "lambada_perplexity"], shots=(0,))
    evaluate.run(spec, long_model, [], made_up.of(spec), root / "state", root / "out")
    return root / "out" / "0shot"


def test_values_and_errors_follow_from_the_items_file(folder: Path) -> None:
    found, scores = rescore(folder), read_scores(folder / "scores.json").tasks
    assert set(found) == set(scores) == {"winogrande", "wikitext", "lambada_perplexity"}
    for name, score in scores.items():
        assert found[name].value == pytest.approx(score.value, rel=1e-12)
        assert standard_error(found[name]) == score.standard_error


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_score_that_its_items_do_not_give_is_refused(folder: Path, tmp_path: Path) -> None:
    place = copied(folder, tmp_path)
    content = json.loads((place / "scores.json").read_text())
    content["tasks"]["winogrande"]["value"] += 0.1
    (place / "scores.json").write_text(json.dumps(content))
    with pytest.raises(DataeffError, match=r"gives 'winogrande' acc 0\.\d+, its items give 0\.\d+; delete the folder"):
        rescore(place)


def test_items_that_are_missing_or_damaged_are_refused(folder: Path, tmp_path: Path) -> None:
    place = copied(folder, tmp_path)
    file = place / "items.jsonl.zst"
    whole = read_records(file)
    lines = [line for part in whole.values() for line in part]
    write_records(file, lines[1:])
    with pytest.raises(DataeffError, match=r"counts 10 items of 'winogrande', items\.jsonl\.zst has 9"):
        rescore(place)
    write_records(file, whole["winogrande"])
    with pytest.raises(DataeffError, match=r"has the tasks .*wikitext.*items"):
        rescore(place)
    write_records(file, [{**line, "metrics": {}} for line in lines])
    with pytest.raises(DataeffError, match="no usable value of acc"):
        rescore(place)
    for damaged in (b"", zstandard.compress(b"{"), zstandard.compress(b"{}\n"), b"not compressed"):
        file.write_bytes(damaged)
        with pytest.raises(DataeffError, match=r"not a file of items|has the tasks"):
            rescore(place)
    file.unlink()
    with pytest.raises(DataeffError, match="no such file; evaluate again"):
        rescore(place)
