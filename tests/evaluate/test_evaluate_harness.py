from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dataeff.errors import DataeffError
from dataeff.evaluate.harness import SEED, open_harness
from dataeff.evaluate.model import ask_model
from dataeff.evaluate.prepare import find_items, prepare
from dataeff.evaluate.resume import TaskResult
from dataeff.files import canonical_digest, sha256_file, write_json
from dataeff.study.specs import EvaluateSpec
from dataeff.study.tasks import HeldoutTask
from tests.evaluate.conftest import MadeUp
from tests.evaluate.local_data import TASKS, fetched, group_spec, openbookqa, task, text

Results = dict[tuple[str, int], TaskResult]


@pytest.fixture(scope="module")
def results(spec: EvaluateSpec, model: Path, items: list[Path], tasks: dict[str, HeldoutTask]) -> Results:
    found = find_items(tasks, items, [0, 3])
    with open_harness(ask_model(model, 4), found, spec.harness, limit=10) as harness:
        return {(name, shots): harness.score(name, found[name], shots) for name in tasks for shots in (0, 3)}


@pytest.mark.parametrize("shots", [0, 3])
def test_items_and_scores_equal_those_of_the_plain_harness(
    shots: int, results: Results, model: Path, items: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval's own way, with the items' YAML as it lies in the folder."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for folder, name in zip(items, dict.fromkeys(name for name, _ in results), strict=True):
        monkeypatch.chdir(folder)
        plain: Any = simple_evaluate(
            model="hf",
            model_args=f"pretrained={model},dtype=float32",
            tasks=[name],
            num_fewshot=shots,
            limit=10,
            batch_size=4,
            device="cpu",
            task_manager=TaskManager(include_path=".", include_defaults=False),
            fewshot_random_seed=SEED,
        )
        ours = results[name, shots]
        samples = sorted(plain["samples"][name], key=lambda sample: sample["doc_id"])
        assert [record["prompt_sha256"] for record in ours.records] == [sample["prompt_hash"] for sample in samples]
        assert [record["metrics"]["acc"] for record in ours.records] == [sample["acc"] for sample in samples]
        for record, sample in zip(ours.records, samples, strict=True):
            theirs = [response[0] for response in sample["filtered_resps"]]
            assert [response[0] for response in record["responses"]] == pytest.approx(theirs, abs=1e-4)
        assert ours.score.value == plain["results"][name]["acc,none"]
        assert ours.score.standard_error == pytest.approx(plain["results"][name]["acc_stderr,none"], rel=1e-12)


def test_an_item_is_right_where_its_answer_is_likeliest(results: Results) -> None:
    for result in results.values():
        for record in result.records:
            likelihoods = [response[0] for response in record["responses"]]
            assert record["metrics"]["acc"] == (max(range(4), key=likelihoods.__getitem__) == record["target"])
        accuracies = [record["metrics"]["acc"] for record in result.records]
        assert result.score.value == pytest.approx(sum(accuracies) / 10)
        assert (result.score.items, result.score.chance, result.score.truncated_prompts) == (10, 0.25, 0)


def test_shots_put_solved_examples_before_the_item(results: Results) -> None:
    none, three = results["last_word", 0].records, results["last_word", 3].records
    for bare, shown in zip(none, three, strict=True):
        *examples, last = shown["text"].split("\n")
        assert last == bare["text"]
        assert 1 <= len(examples) <= 3  # as far as the record's text reaches back
        assert all(example.endswith(".") for example in examples)
        assert shown["prompt_tokens"] > bare["prompt_tokens"]
        assert shown["item"] == bare["item"]


def test_items_must_be_there_whole_and_for_this_task(
    items: list[Path], tasks: dict[str, HeldoutTask], tmp_path: Path
) -> None:
    with pytest.raises(DataeffError, match=r"tasks\.word_order: no items in"):
        find_items(tasks, items[:1], [0])
    with pytest.raises(DataeffError, match="no such folder; make the items again"):
        find_items(tasks, [*items, tmp_path / "absent"], [0])
    with pytest.raises(DataeffError, match="few-shot examples for 1000 shots"):
        find_items(tasks, items, [0, 1000])
    with pytest.raises(DataeffError, match="made for another 'last_word'"):
        find_items({"last_word": tasks["last_word"].model_copy(update={"seed": 1})}, items, [0])
    folder = Path(shutil.copytree(items[0], tmp_path / "cut"))
    file = folder / "last_word" / "test.jsonl"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataeffError, match="its manifest says"):
        find_items({"last_word": tasks["last_word"]}, [folder], [0])


def test_a_dataset_that_is_not_at_hand_is_named_with_the_remedy(made_up: MadeUp, tmp_path: Path) -> None:
    spec = group_spec(made_up.datasets, ["winogrande", "openbookqa"])
    with pytest.raises(DataeffError, match=r"tasks\.openbookqa: its dataset 'openbookqa' is not at hand; .*fetch-eval"):
        prepare(spec, [], [made_up.manifests["winogrande"]])
    gone, manifest = fetched(tmp_path, "gone", {"train": openbookqa(12), "test": openbookqa(3)})
    next((tmp_path / "cache" / "datasets").glob("gone-*/test.jsonl")).unlink()
    moved = TASKS["openbookqa"].model_copy(update={"data": "gone"})
    spec = spec.model_copy(update={"tasks": {"gone": moved}, "datasets": {"gone": gone}})
    with pytest.raises(DataeffError, match=r"dataset gone .*split test: .*is missing; .*fetch-eval"):
        prepare(spec, [], [manifest])


def test_only_the_splits_that_are_read_are_named(made_up: MadeUp) -> None:
    """A training split is parsed where its rows are examples, and otherwise left alone."""
    for shots, splits in (((0,), ["test"]), ((0, 3), ["test", "train"])):
        spec = group_spec(made_up.datasets, ["openbookqa"], shots=shots)
        (prepared,) = prepare(spec, [], made_up.of(spec)).values()
        assert list(prepared.files) == splits
    document = prepared.document("openbookqa", Path("scratch"))
    assert document["include"].endswith("lm_eval/tasks/openbookqa/openbookqa.yaml")
    assert (document["dataset_path"], document["dataset_name"]) == ("json", None)
    assert document["validation_split"] is None
    with pytest.raises(DataeffError, match="'train' of dataset 'openbookqa' has 12 items, too few for 13 shots"):
        prepare(group_spec(made_up.datasets, ["openbookqa"], shots=(13,)), [], [made_up.manifests["openbookqa"]])


def parquet_dataset(root: Path) -> Path:
    """The manifest of rows in the hub's own types: a class is a number with a name."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(
        sentence1=Value("string"), sentence2=Value("string"), label=ClassLabel(names=["entailment", "not_entailment"])
    )
    splits = {}
    for split, count in (("train", 6), ("validation", 9)):
        texts = [{"sentence1": text(number, 9), "sentence2": text(number + 4, 5)} for number in range(count)]
        rows = [{**row, "label": number % 2} for number, row in enumerate(texts)]
        path = root / f"{split}.parquet"
        Dataset.from_list(rows, features=features).to_parquet(path)
        facts = {"sha256": sha256_file(path), "bytes": path.stat().st_size, "items": count, "columns": list(rows[0])}
        splits[split] = {"path": str(path), **facts}
    digest = canonical_digest({split: file["sha256"] for split, file in splits.items()})
    facts = {"about": "rows like those of RTE", "licence": "none", "source": "made up", "data_sha256": digest}
    write_json(root / "rte.json", {"name": "rte", **facts, "splits": splits})
    return root / "rte.json"


def test_data_of_the_hub_keep_their_types(made_up: MadeUp, model: Path, tmp_path: Path) -> None:
    """A built-in task on parquet: the label is the number that its definition expects, at any number of shots."""
    manifest = parquet_dataset(tmp_path)
    spec = group_spec(made_up.datasets, ["openbookqa"], shots=(0, 3)).model_copy(
        update={"tasks": {"rte": task("rte", "rte", "acc")}}
    )
    found = prepare(spec, [], [manifest])
    assert found["rte"].document("rte", tmp_path)["dataset_path"] == "parquet"
    with open_harness(ask_model(model, 4), found, spec.harness, limit=8) as harness:
        for shots in (0, 3):
            result = harness.score("rte", found["rte"], shots)
            assert [record["target"] for record in result.records] == [0, 1] * 4
            for record in result.records:
                likelihoods = [response[0] for response in record["responses"]]
                assert record["metrics"]["acc"] == (likelihoods.index(max(likelihoods)) == record["target"])


def test_values_that_are_not_finite_are_an_error(diverged: Path, items: list[Path], spec: EvaluateSpec) -> None:
    found = find_items({"last_word": spec.tasks["last_word"]}, items, [0])  # type: ignore[dict-item]
    with (
        open_harness(ask_model(diverged, 4), found, spec.harness, limit=2) as harness,
        pytest.raises(DataeffError, match=r"diverged: item 0 of 'last_word' has log-likelihoods \[nan"),
    ):
        harness.score("last_word", found["last_word"], 0)
