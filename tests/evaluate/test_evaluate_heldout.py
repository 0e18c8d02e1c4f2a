from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from dataeff.errors import DataeffError
from dataeff.evaluate.documents import read_documents
from dataeff.evaluate.heldout import Slice, cut_windows, heldout_loss, read_slice
from dataeff.evaluate.model import OpenModel, open_model

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def opened(model: Path) -> OpenModel:
    return open_model(model, batch_size=4)


@torch.inference_mode()
def test_loss_equals_the_library_loss_document_by_document(opened: OpenModel, heldout: Path) -> None:
    domains, overall = heldout_loss(opened, heldout, 6000, 4)
    network, tokenizer = opened.lm.model, opened.lm.tokenizer
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
        windows = list(cut_windows(part, opened.lm.tokenizer, opened.sequence_length))
        predicted = [token for window in windows for token in window.targets]
        assert opened.lm.tokenizer.decode(predicted) == "".join(part.texts)
        assert all(1 <= len(window.inputs) == len(window.targets) <= 256 for window in windows)
    domains, overall = heldout_loss(opened, heldout, 7001, 4)
    assert overall.bytes == sum(domain.bytes for domain in domains.values())
    assert domains["Language Reference"].bytes == 7001


def test_a_document_starts_from_the_separator(opened: OpenModel) -> None:
    windows = list(cut_windows(Slice("any", ["one two", "three"]), opened.lm.tokenizer, 256))
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
