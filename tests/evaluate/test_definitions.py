from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataeff.errors import DataeffError
from dataeff.evaluate import check
from dataeff.evaluate.definitions import OWN_TASKS, check_task, known_tasks, read_definition
from dataeff.study.specs import EvaluateSpec
from dataeff.study.tasks import HubData
from tests.evaluate.conftest import MadeUp
from tests.evaluate.local_data import TASKS, group_spec, task

THE_19 = ["hellaswag", "lambada_openai", "triviaqa", "webqs", "winogrande", "piqa", "arc_challenge", "arc_easy"]
THE_19 += ["anli_r1", "anli_r2", "anli_r3", "openbookqa", "race", "boolq", "copa", "rte", "wsc", "multirc", "record"]


def spec_of(made_up: MadeUp, name: str = "openbookqa", **changes: Any) -> EvaluateSpec:
    spec = group_spec(made_up.datasets, [name])
    return spec.model_copy(update={"tasks": {name: TASKS[name].model_copy(update=changes)}})


def test_the_definitions_are_those_that_the_harness_finds() -> None:
    """Read as text, against lm-eval's own loader of the same file."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for name in [*THE_19, "wikitext", *(path.stem for path in OWN_TASKS.glob("*.yaml"))]:
        found = read_definition(name, "here")
        theirs = load_yaml(found.path, resolve_func=False)
        assert theirs["task"] == found.content["task"] == name
        assert set(theirs) == set(found.content)
        plain = {key: value for key, value in theirs.items() if not isinstance(value, str | dict)}
        assert plain == {key: found.content[key] for key in plain}
        assert found.version == theirs["metadata"]["version"]


def test_splits_and_metrics_are_read_as_the_harness_takes_them() -> None:
    race = read_definition("race", "here")
    assert (race.evaluated_split, race.example_split) == ("test", "test")
    arc = read_definition("arc_challenge", "here")  # includes arc_easy
    assert (arc.evaluated_split, arc.example_split) == ("test", "train")
    assert read_definition("wikitext", "here").aggregations["word_perplexity"] == "weighted_perplexity"
    assert read_definition("boolq", "here").aggregations == {"acc": "mean"}
    assert read_definition("record", "here").aggregations == {"f1": "mean", "em": "mean"}


def test_a_sound_group_passes_and_imports_no_harness(made_up: MadeUp) -> None:
    check(group_spec(made_up.datasets, list(TASKS)))
    code = (
        "import sys; from dataeff.evaluate import check; from dataeff.study.specs import EvaluateSpec as S;"
        "check(S.model_validate_json(sys.argv[1]));"
        "assert not {'lm_eval', 'torch', 'transformers', 'numba'} & set(sys.modules)"
    )
    spec = group_spec(made_up.datasets, list(TASKS))
    subprocess.run([sys.executable, "-c", code, spec.model_dump_json()], check=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "openbokqa"}, r"tasks\.openbookqa\.task: unknown task 'openbokqa'; did you mean 'openbookqa'\?"),
        ({"version": 2.0}, r"tasks\.openbookqa\.version: 2\.0 is configured, .*openbookqa\.yaml has version 1\.0"),
        ({"metric": "acc_nrm"}, r"unknown metric 'acc_nrm'; did you mean 'acc_norm'\?"),
    ],
)
def test_what_a_definition_does_not_say_is_an_error(made_up: MadeUp, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataeffError, match=said):
        check(spec_of(made_up, **changes))


def test_examples_for_a_task_that_takes_none_are_refused(made_up: MadeUp) -> None:
    with pytest.raises(DataeffError, match=r"tasks\.wikitext\.shots: 'wikitext' takes no examples, 3 are asked for"):
        check(spec_of(made_up, "wikitext", shots=None))


def test_another_harness_is_refused(made_up: MadeUp) -> None:
    with pytest.raises(DataeffError, match=r"defined for lm-eval 0\.2\.0, .* is installed"):
        check(spec_of(made_up).model_copy(update={"harness": "0.2.0"}))


def test_splits_that_a_dataset_will_not_have_are_refused(made_up: MadeUp) -> None:
    revision = "0" * 40
    hub = HubData(kind="hub", repository="allenai/openbookqa", revision=revision, splits=["train", "validation"])
    spec = spec_of(made_up)
    dataset = spec.datasets["openbookqa"].model_copy(update={"fetch": hub})
    with pytest.raises(DataeffError, match=r"datasets\.openbookqa \(tasks\.openbookqa, .*unknown split 'test'"):
        check(spec.model_copy(update={"datasets": {"openbookqa": dataset}}))


def test_an_aggregation_that_cannot_be_repeated_is_refused() -> None:
    name = next(name for name in ("wmt16-de-en", "wmt14-en-fr") if name in set(known_tasks()))
    definition = read_definition(name, "here")
    version = definition.version
    assert version is not None
    own = task(name, "wmt", "bleu", version=version)
    with pytest.raises(DataeffError, match=r"bleu of .* is aggregated by its own rule, which cannot"):
        check_task("translation", own, [0])


def test_a_broken_definition_is_named(tmp_path: Path) -> None:
    from dataeff.evaluate.definitions import _read

    (tmp_path / "bad.yaml").write_text("task: [")
    with pytest.raises(DataeffError, match=r"bad\.yaml: not the definition of a task"):
        _read(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- task")
    with pytest.raises(DataeffError, match="which is a mapping"):
        _read(tmp_path / "list.yaml")
