from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff import evaluate
from dataeff.errors import DataeffError
from dataeff.evaluate.documents import read_documents
from dataeff.evaluate.losses import heldout_scores, read_slice
from dataeff.evaluate.model import OpenModel, ask_model, open_model
from dataeff.evaluate.scores import DomainLoss, HeldoutScores, Loss
from dataeff.families.bert import Bert
from dataeff.families.gpt_windows import cut_windows
from dataeff.families.masking import IGNORED, Masker, mask_key
from dataeff.families.text_pairs import SEED, all_pairs
from dataeff.provenance import provenance
from dataeff.study.specs import HeldoutSpec
from dataeff.study.types import Model
from dataeff.tokens.vocabulary import load
from tests.families.pieces import TOKENS, write_tokenizer

torch = pytest.importorskip("torch")
cross_entropy = torch.nn.functional.cross_entropy


@pytest.fixture(scope="module")
def opened(model: Path) -> OpenModel:
    return open_model(model, batch_size=4)


def heldout_loss(model: OpenModel, heldout: Path, size: int, batch_size: int) -> tuple[dict[str, DomainLoss], Loss]:
    identity = {"run": model.run, "name": model.name, "spec_digest": "0" * 64, "model_digest": model.digest}
    scores = heldout_scores(model, heldout, size, batch_size, {**identity, **dict(provenance())})
    assert isinstance(scores, HeldoutScores)
    return scores.domains, scores.overall


@torch.inference_mode()
def test_loss_equals_the_library_loss_document_by_document(opened: OpenModel, heldout: Path) -> None:
    domains, overall = heldout_loss(opened, heldout, 6000, 4)
    network, tokenizer = opened.network, opened.lm.tokenizer
    nats, tokens = 0.0, 0
    for path in sorted(heldout.glob("*.zst")):
        part = read_slice(path, 6000)
        domain_nats, domain_tokens = 0.0, 0
        for text in part.texts:
            ids = [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]
            for start in range(0, len(ids) - 1, opened.sequence_length):
                rows = torch.tensor([ids[start : start + opened.sequence_length + 1]])
                if rows.shape[1] == opened.sequence_length + 1:
                    logits = network(input_ids=rows[:, :-1]).logits
                    loss = torch.nn.functional.cross_entropy(logits[0], rows[0, 1:])
                else:
                    # The library shifts the labels itself: the mean over all but the first position.
                    loss = network(input_ids=rows, labels=rows).loss
                domain_nats += float(loss) * (rows.shape[1] - 1)
                domain_tokens += rows.shape[1] - 1
        assert domains[part.domain].tokens == domain_tokens
        assert domains[part.domain].loss == pytest.approx(domain_nats / domain_tokens, rel=1e-5)
        nats, tokens = nats + domain_nats, tokens + domain_tokens
    assert overall.tokens == tokens
    assert overall.loss == pytest.approx(nats / tokens, rel=1e-5)
    assert overall.bits_per_byte == pytest.approx(nats / math.log(2) / overall.bytes, rel=1e-5)


def test_every_byte_is_predicted_once(opened: OpenModel, heldout: Path) -> None:
    for path in sorted(heldout.glob("*.zst")):
        part = read_slice(path, 7001)
        windows = list(cut_windows(part.texts, load(opened.folder), opened.sequence_length))
        predicted = [token for window in windows for token in window.targets]
        assert opened.lm.tokenizer.decode(predicted) == "".join(part.texts)
        assert all(1 <= len(window.inputs) == len(window.targets) <= 256 for window in windows)
    domains, overall = heldout_loss(opened, heldout, 7001, 4)
    assert overall.bytes == sum(domain.bytes for domain in domains.values())
    assert domains["Language Reference"].bytes == 7001


def test_a_document_starts_from_the_separator(opened: OpenModel) -> None:
    windows = list(cut_windows(["one two", "three"], load(opened.folder), 256))
    assert [window.inputs[0] for window in windows] == [opened.lm.tokenizer.eos_token_id] * 2


def test_the_loss_is_the_same_again_and_hardly_depends_on_the_batch(opened: OpenModel, heldout: Path) -> None:
    first = heldout_loss(opened, heldout, 3000, 4)
    assert heldout_loss(opened, heldout, 3000, 4) == first
    assert heldout_loss(opened, heldout, 3000, 1)[1].loss == pytest.approx(first[1].loss, rel=1e-6)


def test_a_slice_is_whole_documents_and_a_last_one_cut_between_characters(
    write_domain: Callable[..., None], tmp_path: Path
) -> None:
    write_domain(tmp_path / "a.jsonl.zst", "A", ["für", "schöner", "später"])
    assert read_slice(tmp_path / "a.jsonl.zst", 8).texts == ["für", "sch"]
    assert read_slice(tmp_path / "a.jsonl.zst", 9).texts == ["für", "schö"]
    assert read_slice(tmp_path / "a.jsonl.zst", 1000).texts == ["für", "schöner", "später"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    import zstandard

    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "a", "meta": {"pile_set_name": "A"}}\n{"text": "b"}\n'))
    with pytest.raises(DataeffError, match=r"a\.jsonl\.zst: line 2 is no document"):
        list(read_documents(path))
    path.write_bytes(b"no archive at all")
    with pytest.raises(DataeffError, match="make the corpus again"):
        list(read_documents(path))


def test_weights_that_are_not_numbers_are_an_error(diverged: Path, heldout: Path) -> None:
    with pytest.raises(DataeffError, match=r"held-out loss on 'Github' is nan; .* training diverged"):
        heldout_loss(open_model(diverged, 4), heldout, 100, 4)


# --- a masked model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained BERT with a vocabulary of 64 pieces."""
    folder = tmp_path_factory.mktemp("masked") / "model"
    family = Bert(write_tokenizer(folder))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    torch.manual_seed(0)
    size = Model(layers=2, hidden=32, heads=2, sequence_length=32, dropout=0.1, init_std=0.3)
    family.build_model(size).save_pretrained(folder)
    run = {"family": "bert", "variant": "baseline", "data": "1", "seed": 7}
    (folder / "run.json").write_text(json.dumps({"run": run, "name": "bert-baseline-100-s7", "steps": 3}))
    return folder


@pytest.fixture(scope="module")
def masked_heldout(write_domain: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of sentences of the vocabulary's words, and one whose only document is one sentence."""
    folder = tmp_path_factory.mktemp("masked_heldout")
    random = np.random.default_rng(0)
    words = [token for token in TOKENS if token.startswith("w")]

    def document(sentences: int) -> str:
        lengths = random.integers(3, 9, sentences)
        return " ".join(" ".join(random.choice(words, length)).capitalize() + "." for length in lengths)

    write_domain(folder / "a.jsonl.zst", "A", [document(30), document(1), document(4)])
    write_domain(folder / "b.jsonl.zst", "B", [document(15)])
    write_domain(folder / "c.jsonl.zst", "C", [document(1)])
    return folder


def run_masked(spec: HeldoutSpec, model: Path, heldout: Path, out: Path) -> dict[str, Any]:
    evaluate.heldout(spec, model, heldout, out / "heldout.json")
    return dict(json.loads((out / "heldout.json").read_text()))


def test_a_masked_model_s_losses_are_the_library_s(
    heldout_spec: HeldoutSpec, masked_model: Path, masked_heldout: Path, tmp_path: Path
) -> None:
    """Pair by pair, over the pairs that its text makes and the masks that are always the same."""
    from transformers import AutoModelForPreTraining

    found = run_masked(heldout_spec, masked_model, masked_heldout, tmp_path / "out")
    library = AutoModelForPreTraining.from_pretrained(masked_model).eval()
    tokenizer = load(masked_model)
    totals: dict[str, float] = {"loss": 0.0, "sentence_order_loss": 0.0, "sentence_order_accuracy": 0.0}
    for name, file in (("A", "a"), ("B", "b")):
        texts = read_slice(masked_heldout / f"{file}.jsonl.zst", 5000).texts
        pairs = all_pairs(texts, tokenizer, 32)
        assert pairs is not None
        tokens, labels = Masker.of(tokenizer).mask(pairs.batch, pairs.targets, mask_key(SEED, 0))
        sums = dict.fromkeys(totals, 0.0)
        for row, length in enumerate(pairs.batch.lengths):
            types = torch.from_numpy(pairs.batch.types[row : row + 1, :length].astype(np.int64))
            with torch.no_grad():
                output = library(torch.from_numpy(tokens[row : row + 1, :length]), token_type_ids=types)
            label = torch.from_numpy(labels[row, :length])
            order = torch.tensor(int(pairs.batch.swapped[row]))
            scores = output.seq_relationship_logits[0]
            sums["loss"] += float(cross_entropy(output.prediction_logits[0], label, reduction="sum"))
            sums["sentence_order_loss"] += float(cross_entropy(scores, order))
            sums["sentence_order_accuracy"] += float(scores.argmax() == order)
        masked, count = int((labels != IGNORED).sum()), len(labels)
        domain = found["domains"][name]
        assert (domain["tokens"], domain["pairs"], domain["documents"]) == (masked, count, len(texts))
        assert domain["bytes"] == sum(len(text.encode()) for text in texts)
        assert domain["loss"] == pytest.approx(sums["loss"] / masked, rel=1e-5)
        for measure in ("sentence_order_loss", "sentence_order_accuracy"):
            assert domain[measure] == pytest.approx(sums[measure] / count, rel=1e-5)
        totals = {measure: totals[measure] + sums[measure] for measure in totals}
    overall = found["overall"]
    assert overall["loss"] == pytest.approx(totals["loss"] / overall["tokens"], rel=1e-5)
    assert overall["sentence_order_loss"] == pytest.approx(totals["sentence_order_loss"] / overall["pairs"], rel=1e-5)
    assert "bits_per_byte" not in overall  # what is not masked is not predicted


def test_a_domain_without_pairs_is_left_out_aloud(
    heldout_spec: HeldoutSpec,
    masked_model: Path,
    masked_heldout: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = run_masked(heldout_spec, masked_model, masked_heldout, tmp_path / "out")
    assert set(found["domains"]) == {"A", "B"}
    said = capsys.readouterr().out
    assert "evaluate: 'C': left out: its" in said
    assert "nats per masked piece, sentence order" in said
    for name in ("a", "b"):
        shutil.copy(masked_heldout / "c.jsonl.zst", tmp_path / f"{name}.jsonl.zst")
    with pytest.raises(DataeffError, match="the first 5000 bytes of no domain give anything to predict"):
        evaluate.heldout(heldout_spec, masked_model, tmp_path, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_masked_model_that_diverged_is_an_error(
    heldout_spec: HeldoutSpec, masked_model: Path, masked_heldout: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(masked_model, tmp_path / "diverged"))
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.intermediate.dense.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataeffError, match=r"held-out loss on 'A' is nan; .* training diverged"):
        evaluate.heldout(heldout_spec, folder, masked_heldout, tmp_path / "out")


def test_masked_weights_that_are_missing_are_an_error(masked_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(masked_model, tmp_path / "short"))
    weights = load_file(folder / "model.safetensors")
    del weights["cls.seq_relationship.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataeffError, match=r"lacks 1 of the model's weights \(cls\.seq_relationship\.weight\)"):
        open_model(folder, 4)


def test_no_task_can_be_put_to_a_masked_model(masked_model: Path) -> None:
    with pytest.raises(DataeffError, match="a BERT continues no text, so that no task can be put to it; finetune it"):
        ask_model(masked_model, 4)
