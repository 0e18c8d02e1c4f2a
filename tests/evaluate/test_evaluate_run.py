from __future__ import annotations

import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from dataeff import evaluate
from dataeff.errors import DataeffError
from dataeff.evaluate.harness import open_harness
from dataeff.evaluate.model import ask_model
from dataeff.evaluate.prepare import prepare
from dataeff.evaluate.rescore import rescore
from dataeff.evaluate.scores import read_heldout, read_scores
from dataeff.files import sha256_file
from dataeff.provenance import provenance
from dataeff.study.specs import EvaluateSpec, HeldoutSpec
from tests.evaluate.conftest import MadeUp
from tests.evaluate.local_data import ROWS, TASKS, group_spec, text


def records(folder: Path) -> list[dict[str, Any]]:
    with (folder / "items.jsonl.zst").open("rb") as raw:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw)).read().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def out(spec: EvaluateSpec, model: Path, items: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    evaluate.run(spec, model, items, [], root / "state", root / "out")
    assert not (root / "state").exists()
    return root / "out"


def test_every_declared_file_is_there_in_its_schema(out: Path, spec: EvaluateSpec, model: Path) -> None:
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    assert files == [f"{count}shot/{name}" for count in (0, 2) for name in ("items.jsonl.zst", "scores.json")]
    for count in (0, 2):
        scores = read_scores(out / f"{count}shot" / "scores.json")
        assert (scores.shots, scores.name, scores.spec_digest) == (count, "gpt-baseline-50-s7", spec.digest)
        assert scores.model_digest == sha256_file(model / "model.safetensors")
        assert scores.software["lm_eval"] == provenance().software["lm_eval"]
        assert [line["task"] for line in records(out / f"{count}shot")] == ["last_word"] * 12 + ["word_order"] * 12
        assert {task.chance for task in scores.tasks.values()} == {0.25}
        assert set(rescore(out / f"{count}shot")) == set(spec.tasks)


def test_a_second_run_writes_the_same_bytes(
    out: Path, spec: EvaluateSpec, model: Path, items: list[Path], tmp_path: Path
) -> None:
    evaluate.run(spec, model, items, [], tmp_path / "state", tmp_path / "again")
    for file in (path for path in out.rglob("*") if path.is_file()):
        assert (tmp_path / "again" / file.relative_to(out)).read_bytes() == file.read_bytes()


def test_a_failed_run_leaves_the_folder_as_it_was(
    spec: EvaluateSpec, diverged: Path, items: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scores.json").write_text("old")
    with pytest.raises(DataeffError, match="training diverged"):
        evaluate.run(spec, diverged, items, [], tmp_path / "state", tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["scores.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["diverged", "out"]


def test_a_scores_file_of_another_schema_is_refused(out: Path, tmp_path: Path) -> None:
    content = json.loads((out / "0shot" / "scores.json").read_text())
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({**content, "schema": 1}))
    with pytest.raises(DataeffError, match=r"scores\.json: schema: .*found 1"):
        read_scores(path)
    content["tasks"]["last_word"]["value"] = float("nan")
    path.write_text(json.dumps(content))
    with pytest.raises(DataeffError, match=r"tasks\.last_word\.value: .*finite"):
        read_scores(path)


# --- tasks of the harness -------------------------------------------------------------------------------------

EVERY_KIND = ("winogrande", "openbookqa", "lambada", "lambada_perplexity", "wikitext", "triviaqa")


@pytest.fixture(scope="module")
def asked(made_up: MadeUp, long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluateSpec, Path]:
    """A task of every output type, put to a model whose context some prompts exceed."""
    root = tmp_path_factory.mktemp("asked")
    spec = group_spec(made_up.datasets, EVERY_KIND, shots=(0, 3))
    evaluate.run(spec, long_model, [], made_up.of(spec), root / "state", root / "out")
    return spec, root / "out"


def test_tasks_of_every_output_type_give_scores_and_items(asked: tuple[EvaluateSpec, Path]) -> None:
    spec, out = asked
    none, three = (read_scores(out / f"{shots}shot" / "scores.json") for shots in (0, 3))
    assert list(none.tasks) == list(EVERY_KIND)
    assert set(three.tasks) == set(EVERY_KIND) - {"wikitext"}  # its shots are its own
    for name, score in none.tasks.items():
        task = spec.tasks[name]
        assert (score.group, score.metric, score.about) == ("made_up", task.metric, task.about)
        assert (score.items, score.harness) == ({"wikitext": 4, "triviaqa": 6}.get(name, 10), spec.harness)
        assert score.standard_error is not None
        assert score.standard_error >= 0
    assert (none.tasks["winogrande"].published_as, none.tasks["winogrande"].chance) == ("winogrande", 0.5)
    assert none.tasks["wikitext"].value > 1000 > none.tasks["lambada"].value
    assert not none.tasks["wikitext"].higher_is_better
    likelihoods = [line["responses"][0][0] for line in records(out / "0shot") if line["task"] == "lambada"]
    perplexity = math.exp(-sum(likelihoods) / len(likelihoods))
    assert none.tasks["lambada_perplexity"].value == pytest.approx(perplexity)
    generated = [line for line in records(out / "3shot") if line["task"] == "triviaqa"]
    assert all(isinstance(line["responses"][0], str) for line in generated)


def test_an_items_record_identifies_it_and_holds_every_metric(asked: tuple[EvaluateSpec, Path]) -> None:
    lines = records(asked[1] / "0shot")
    for name in EVERY_KIND:
        own = [line for line in lines if line["task"] == name]
        assert len({line["item"] for line in own}) == len(own)
        assert [line["doc_id"] for line in own] == list(range(len(own)))
        assert TASKS[name].metric in own[0]["metrics"]
        assert all(line["prompt_tokens"] > 0 for line in own)
    book = next(line for line in lines if line["task"] == "openbookqa")
    assert set(book["metrics"]) == {"acc", "acc_norm"}
    assert (len(book["responses"]), book["target"]) == (4, 0)
    assert text(0, 8).endswith(book["text"]) or book["text"].endswith(text(0, 8))
    wiki = next(line for line in lines if line["task"] == "wikitext")
    assert set(wiki["metrics"]) == {"word_perplexity", "byte_perplexity", "bits_per_byte"}
    assert not wiki["truncated"]  # scored in windows


def test_weights_that_are_not_numbers_are_found_in_every_output_type(
    made_up: MadeUp, long_model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(long_model, tmp_path / "diverged"))
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    said = {"wikitext": "item 0 of 'wikitext'", "lambada": "item 0 of 'lambada'", "triviaqa": "item [01] of 'triviaqa'"}
    for name, words in said.items():
        spec = group_spec(made_up.datasets, [name], shots=(0,), items=2)
        with pytest.raises(DataeffError, match=f"diverged.*{words}"):
            evaluate.run(spec, folder, [], made_up.of(spec), tmp_path / "state", tmp_path / "out")


def test_one_item_s_generation_that_is_no_number_is_named(made_up: MadeUp, long_model: Path, tmp_path: Path) -> None:
    """A token of item 4's question alone has no embedding: the others of its batch are answered, it is named."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(long_model, tmp_path / "damaged"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [f"Question: {row['question']}?\nAnswer:" for row in ROWS["triviaqa"]["validation"]]
    tokens = [set(tokenizer(question)["input_ids"]) for question in asked]
    alone = tokens[4].difference(*(other for number, other in enumerate(tokens) if number != 4))
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"].clone()
    weights["transformer.wte.weight"][min(alone)] = math.nan
    # Tied, the output of that token would be no number for any item: its own matrix stays sound.
    sound = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    save_file({**weights, "lm_head.weight": sound}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    spec = group_spec(made_up.datasets, ["triviaqa"], shots=(0,))
    with pytest.raises(
        DataeffError, match="damaged: item 4 of 'triviaqa': logits that are no numbers while its answer"
    ):
        evaluate.run(spec, folder, [], made_up.of(spec), tmp_path / "state", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prompts_longer_than_the_context_are_counted_and_told(
    made_up: MadeUp,
    model: Path,
    make_model: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = group_spec(made_up.datasets, ["winogrande"], shots=(3,))
    evaluate.run(spec, model, [], made_up.of(spec), tmp_path / "state", tmp_path / "whole")
    lengths = sorted(line["prompt_tokens"] for line in records(tmp_path / "whole" / "3shot"))
    middle = lengths[len(lengths) // 2]  # one more token is predicted than is read
    short = make_model("short_context", positions=middle - 1)
    capsys.readouterr()
    evaluate.run(spec, short, [], made_up.of(spec), tmp_path / "state", tmp_path / "out")
    score = read_scores(tmp_path / "out" / "3shot" / "scores.json").tasks["winogrande"]
    cut = [line["prompt_tokens"] > middle for line in records(tmp_path / "out" / "3shot")]
    assert 0 < sum(cut) < len(cut)
    assert score.truncated_prompts == sum(cut)
    assert f"{sum(cut)} prompts lost their beginning" in capsys.readouterr().out


def test_a_generation_needs_room(made_up: MadeUp, model: Path, tmp_path: Path) -> None:
    spec = group_spec(made_up.datasets, ["triviaqa"])
    with pytest.raises(DataeffError, match=r"writes up to 256 tokens, .* reads 256 in all"):
        evaluate.run(spec, model, [], made_up.of(spec), tmp_path / "state", tmp_path / "out")


def test_no_item_is_its_own_example(
    made_up: MadeUp, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 13 passages 12 are drawn: without care, all items but one in 13 would find themselves among them."""
    spec = group_spec(made_up.datasets, ["lambada", "openbookqa"], shots=(0, 12), items=13)
    evaluate.run(spec, model, [], made_up.of(spec), tmp_path / "state", tmp_path / "out")
    passages = [row["text"].rpartition(" ")[0] for row in ROWS["lambada"]["test"]]
    with open_harness(ask_model(model, 4), prepare(spec, [], made_up.of(spec)), spec.harness, limit=13) as harness:
        task = harness._task("lambada")
        task.set_config(key="num_fewshot", value=12)
        task.set_fewshot_seed(seed=1234)
        task.build_all_requests()
        prompts = {instance.doc_id: instance.args[0] for instance in task.instances}
    assert len(prompts) == 13
    for number, prompt in prompts.items():
        assert [prompt.count(passage) for passage in passages] == [1] * 13
        assert prompt.endswith(passages[number])
    scores = {shots: read_scores(tmp_path / "out" / f"{shots}shot" / "scores.json").tasks for shots in (0, 12)}
    found = {(shots, name): score.own_split_items for shots, tasks in scores.items() for name, score in tasks.items()}
    assert found == {(0, "lambada"): 0, (0, "openbookqa"): 0, (12, "lambada"): 13, (12, "openbookqa"): 0}
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "lambada 12-shot" in line]
    assert "examples of the scored split, never the item itself, before 13 items" in line


# --- what is not a run ----------------------------------------------------------------------------------------


def test_any_causal_folder_can_be_asked(made_up: MadeUp, model: Path, tmp_path: Path) -> None:
    """The same scores as a run of the study with these weights has; there is just no run to name."""
    folder = Path(shutil.copytree(model, tmp_path / "gpt2-small"))
    (folder / "run.json").unlink()
    spec = group_spec(made_up.datasets, ["openbookqa"])
    evaluate.run(spec, folder, [], made_up.of(spec), tmp_path / "state", tmp_path / "theirs")
    evaluate.run(spec, model, [], made_up.of(spec), tmp_path / "state", tmp_path / "ours")
    theirs, ours = (read_scores(tmp_path / name / "3shot" / "scores.json") for name in ("theirs", "ours"))
    assert (theirs.run, theirs.name) == (None, "gpt2-small")
    assert ours.run is not None
    assert theirs.tasks == ours.tasks
    assert theirs.model_digest == ours.model_digest


def test_heldout_loss_needs_no_harness(heldout_spec: HeldoutSpec, model: Path, heldout: Path, tmp_path: Path) -> None:
    """In a process of its own: lm-eval's import is what half of the time would go to."""
    code = (
        "import sys; from pathlib import Path; from dataeff import evaluate; from dataeff.study.specs import *;"
        "spec = HeldoutSpec(heldout_bytes_per_domain=5000, batch_size=4); a = [Path(part) for part in sys.argv[1:]];"
        "evaluate.heldout(spec, *a); assert 'lm_eval' not in sys.modules"
    )
    file = tmp_path / "heldout.json"
    subprocess.run([sys.executable, "-c", code, str(model), str(heldout), str(file)], check=True)
    losses = read_heldout(file)
    assert set(losses.domains) == {"Language Reference", "Library (prose)", "Github"}
    assert losses.spec_digest == heldout_spec.digest


def test_provenance_needs_no_heavy_import() -> None:
    code = "import sys, dataeff.provenance as p; p.provenance(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
