"""BERT's model against the library's, its start against Megatron's, lengths, losses, and that it learns both tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from dataeff.errors import DataeffError
from dataeff.families import find_family
from dataeff.families.batch import Cut, StepBatch
from dataeff.families.bert import Bert, cut, cut_length
from dataeff.families.bert_network import new_network
from dataeff.families.masking import IGNORED
from dataeff.samples import PairSamples, build
from dataeff.study.specs import SamplesSpec
from dataeff.study.types import Model
from dataeff.tokens.indexed_dataset import write_indexed_arrays
from tests.families.pieces import PAD, write_tokenizer

MODEL = Model(layers=3, hidden=16, heads=2, sequence_length=32, dropout=0.0)
WHOLE = Cut(length=32, rule=None, selects=False, seed=1, step=0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Bert:
    return Bert(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def samples(bert: Bert, tmp_path_factory: pytest.TempPathFactory) -> PairSamples:
    """Documents whose sentences tell their place: sentence n is of words from 5 + 6 n on, so that order can be learned.

    Lengths differ: documents have two to six sentences of two to six words.
    """
    folder = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(0)
    sentences, ends = [], [0]
    for _ in range(600):
        for place in range(random.integers(2, 7)):
            sentences.append(5 + 6 * place + random.integers(0, 3, size=random.integers(2, 7)))
        ends.append(len(sentences))
    write_indexed_arrays(folder / "00", sentences, np.dtype(np.uint16), documents=np.array(ends))
    spec = SamplesSpec(family="bert", sequence_length=32, seed=1234, short_seq_prob=0.1)
    build(spec, [folder / "00"], folder / "samples")
    return bert.open_samples(folder / "samples", [folder / "00"])


def step_of(bert: Bert, samples: PairSamples, step: Cut = WHOLE, count: int = 16) -> StepBatch:
    return bert.step_batch(samples, np.arange(count), step)


# --- the model -----------------------------------------------------------------------------------------------


def test_logits_are_the_library_s_at_the_masked_places(bert: Bert, samples: PairSamples, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = bert.build_model(MODEL).eval()
    network.save_pretrained(tmp_path)
    library = transformers.AutoModelForPreTraining.from_pretrained(tmp_path).eval()
    assert type(library) is transformers.MegatronBertForPreTraining
    part = step_of(bert, samples).part(slice(0, 16), "cpu")
    real = torch.arange(32) < part["lengths"][:, None]
    with torch.no_grad():
        expected = library(part["tokens"], attention_mask=real.long(), token_type_ids=part["types"])
        places = torch.arange(16 * 32)[real.flatten()]
        logits, order = network(
            input_ids=part["tokens"], token_type_ids=part["types"], lengths=part["lengths"], places=places
        )
        losses = bert.loss_sums(network, part)
    assert torch.allclose(logits, expected.prediction_logits[real], atol=1e-5)
    assert torch.allclose(order, expected.seq_relationship_logits, atol=1e-6)
    flat, labels = expected.prediction_logits.flatten(0, 1), part["labels"].flatten()
    mlm = functional.cross_entropy(flat, labels, ignore_index=IGNORED, reduction="sum")
    assert float(losses["mlm_loss"]) == pytest.approx(float(mlm), rel=1e-5)
    swapped = functional.cross_entropy(expected.seq_relationship_logits, part["swapped"], reduction="sum")
    assert float(losses["sentence_order_loss"]) == pytest.approx(float(swapped), rel=1e-5)


@pytest.mark.parametrize(
    "head", ["AutoModelForSequenceClassification", "AutoModelForMultipleChoice", "AutoModelForQuestionAnswering"]
)
def test_finetuning_heads_load_the_body(bert: Bert, tmp_path: Path, head: str) -> None:
    network = bert.build_model(MODEL)
    network.save_pretrained(tmp_path)
    loaded, info = getattr(transformers, head).from_pretrained(tmp_path, output_loading_info=True)
    new = {name for name in info["missing_keys"] if not name.startswith(("classifier.", "qa_outputs."))}
    assert not new
    body = loaded.bert.state_dict()
    for name, tensor in network.bert.state_dict().items():
        if name in body:
            assert torch.equal(body[name], tensor)


def test_the_start_is_megatrons() -> None:
    torch.manual_seed(0)
    model = Model(layers=8, hidden=128, heads=4, sequence_length=64, init_std=0.05)
    network = new_network(model, vocabulary=256, pad_id=0)
    small = 0
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (1 if "ln.weight" in name or "LayerNorm.weight" in name else 0)).all(), name
            continue
        into_residual = ".attention.output.dense" in name or (".layer." in name and ".output.dense" in name)
        small += into_residual
        expected = 0.05 / 4 if into_residual else 0.05  # sqrt(2 * 8) = 4
        limit = 5 * expected / np.sqrt(2 * parameter.numel())
        assert parameter.std().item() == pytest.approx(expected, abs=limit), name
        assert abs(parameter.mean().item()) < 5 * expected / np.sqrt(parameter.numel()), name
    assert small == 16
    assert network.bert.embeddings.word_embeddings.weight[0].abs().sum() > 0  # [PAD]'s row, too
    assert network.config.hidden_act == "gelu_pytorch_tanh"
    assert {module.eps for module in network.modules() if isinstance(module, torch.nn.LayerNorm)} == {1e-5}


def test_padding_changes_nothing(bert: Bert, samples: PairSamples) -> None:
    """What a trimmed step computes is what the whole rows give, whatever stands in their padding."""
    torch.manual_seed(0)
    network = bert.build_model(MODEL).eval()
    whole = step_of(bert, samples)
    longest = int(whole.arrays["lengths"].max())
    other = {**whole.arrays, "tokens": np.where(whole.arrays["tokens"] == PAD, 9, whole.arrays["tokens"])}
    losses = []
    with torch.no_grad():
        for batch in (whole, cut(whole, longest), StepBatch(other, whole.counts)):
            losses.append(bert.loss_sums(network, batch.part(slice(0, 16), "cpu")))
    for name in ("mlm_loss", "sentence_order_loss"):
        assert float(losses[1][name]) == pytest.approx(float(losses[0][name]), rel=1e-5)
        assert float(losses[2][name]) == pytest.approx(float(losses[0][name]), rel=1e-5)


# --- a step's batch ------------------------------------------------------------------------------------------


def test_a_step_s_batch_is_the_samples_with_masks(bert: Bert, samples: PairSamples) -> None:
    batch, read = step_of(bert, samples), samples.batch(np.arange(16))
    labels = batch.arrays["labels"]
    assert (np.where(labels == IGNORED, batch.arrays["tokens"], labels) == read.tokens).all()
    assert (batch.arrays["types"] == read.types).all()
    assert (batch.arrays["lengths"] == read.lengths).all()
    assert (batch.arrays["swapped"] == read.swapped).all()
    assert batch.counts == {"mlm_loss": (labels != IGNORED).sum(), "sentence_order_loss": 16}
    assert batch.facts == {"batch_length": 32, "masked_tokens": (labels != IGNORED).sum()}


def test_lengths_worked_by_hand() -> None:
    lengths = np.array([9, 20, 17])

    def at(length: int, rule: str | None, selects: bool) -> int:
        return cut_length(lengths, 30, Cut(length, rule, selects, seed=1, step=0))  # type: ignore[arg-type]

    assert at(30, None, selects=False) == 30  # baseline, random-LTD alone: as they are
    assert at(30, None, selects=True) == 24  # reordered: the longest, 20, up to a multiple of 8
    assert at(16, "truncate", selects=False) == 16
    assert at(13, "truncate", selects=True) == 16  # the curriculum's length, up to a multiple of 8
    assert at(30, "truncate", selects=True) == 30  # nothing is made longer than the samples
    assert cut_length(np.array([8, 3]), 30, Cut(30, None, True, 1, 0)) == 8
    assert cut_length(np.array([29]), 30, Cut(30, None, True, 1, 0)) == 30


def test_truncation_cuts_every_field_and_trimming_nothing_that_is_real(bert: Bert, samples: PairSamples) -> None:
    whole = step_of(bert, samples)
    short = step_of(bert, samples, Cut(11, "truncate", False, 1, 0))
    for name in ("tokens", "types", "labels"):
        assert (short.arrays[name] == whole.arrays[name][:, :16]).all()
    assert (short.arrays["lengths"] == np.minimum(whole.arrays["lengths"], 16)).all()
    masked = (whole.arrays["labels"][:, :16] != IGNORED).sum()
    assert short.counts == {"mlm_loss": masked, "sentence_order_loss": 16}
    assert short.facts == {"batch_length": 16, "masked_tokens": masked}
    few = np.flatnonzero(samples.batch(np.arange(len(samples))).lengths <= 16)[:8]
    trimmed = bert.step_batch(samples, few, Cut(32, None, True, 1, 0))
    full = bert.step_batch(samples, few, WHOLE)
    assert trimmed.facts == {**full.facts, "batch_length": 16}
    assert (full.arrays["tokens"][:, 16:] == PAD).all()


def test_sentence_pairs_are_not_reshaped(bert: Bert, samples: PairSamples) -> None:
    with pytest.raises(DataeffError, match="'reshape' is for gpt"):
        step_of(bert, samples, Cut(16, "reshape", False, 1, 0))


def test_masks_differ_at_every_visit(bert: Bert, samples: PairSamples) -> None:
    labels = [step_of(bert, samples, Cut(32, None, False, 1, step)).arrays["labels"] for step in (0, 0, 1)]
    assert (labels[0] == labels[1]).all()
    assert (labels[0] != labels[2]).any()


def test_half_of_the_pairs_are_swapped(samples: PairSamples) -> None:
    """Within five standard deviations."""
    batch = samples.batch(np.arange(len(samples)))
    assert batch.swapped is not None
    assert abs(batch.swapped.mean() - 0.5) < 2.5 / np.sqrt(len(samples))


# --- learning ------------------------------------------------------------------------------------------------


def test_it_learns_the_words_and_the_order_of_sentences(bert: Bert, samples: PairSamples) -> None:
    """A word is one of three, once its sentence's place is seen; the segment of lower words comes first in the text."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = bert.build_model(MODEL.model_copy(update={"layers": 2, "hidden": 32, "init_std": 0.1})).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    random = np.random.default_rng(1)
    means = []
    for step in range(300):
        batch = bert.step_batch(samples, random.integers(0, len(samples), 32), Cut(32, None, True, 1, step))
        sums = bert.loss_sums(network, batch.part(slice(0, 32), "cpu"))
        losses = {name: loss / batch.counts[name] for name, loss in sums.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        means.append({name: loss.item() for name, loss in losses.items()})
    first, last = means[0], {name: np.mean([row[name] for row in means[-20:]]) for name in means[0]}
    assert first["mlm_loss"] > np.log(128) - 0.1  # nothing known: one of 128
    assert first["sentence_order_loss"] == pytest.approx(np.log(2), abs=0.1)
    assert last["mlm_loss"] < np.log(18) - 0.6  # better than to know that 18 of them are used
    assert last["sentence_order_loss"] < 0.2
    network.eval()
    with torch.no_grad():
        sums = bert.probe_sums(network, step_of(bert, samples, count=200).part(slice(0, 200), "cpu"))
    assert sums["sentence_order_accuracy"].mean > 0.85


# --- held-out text -------------------------------------------------------------------------------------------


def test_scoring_does_not_depend_on_the_batch_and_adds_up(bert: Bert) -> None:
    """Every pair of a text is scored once, with one set of masks."""
    torch.manual_seed(0)
    network = bert.build_model(MODEL).eval()
    words = [token for token in bert.tokenizer.backend.get_vocab() if token.startswith("w")]
    random = np.random.default_rng(2)

    def text(sentences: int) -> str:
        return " ".join(
            " ".join(random.choice(words, random.integers(3, 9))).capitalize() + "." for _ in range(sentences)
        )

    groups = [[text(20), text(1), text(9)], [text(1)], [text(12)]]
    found = bert.score_texts(network, groups, 32, 4)
    assert found[1] is None  # a document of one sentence gives no pair
    for one, other in zip(found, bert.score_texts(network, groups, 32, 64), strict=True):
        if one is None or other is None:
            assert one is other
            continue
        assert {name: measure.count for name, measure in one.items()} == {
            name: measure.count for name, measure in other.items()
        }
        for name in one:
            assert one[name].total == pytest.approx(other[name].total, rel=1e-5)
    first = found[0]
    assert first is not None
    assert first["loss"].mean == pytest.approx(np.log(128), abs=0.2)
    assert first["sentence_order_loss"].count == first["sentence_order_accuracy"].count >= 5


def test_the_families_are_found_by_name() -> None:
    assert find_family("bert") is Bert
    assert find_family("gpt").predicts_every_byte
    with pytest.raises(DataeffError, match=r"run\.family: unknown family 'bart'; did you mean 'bert'"):
        find_family("bart")  # type: ignore[arg-type]


def test_a_gpt_tokenizer_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    from dataeff.tokens.vocabulary import END_OF_TEXT, load

    backend = Tokenizer(models.BPE())
    backend.add_special_tokens([END_OF_TEXT])
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataeffError, match=r"has no \[CLS\]; use one of the kinds 'wordpiece' or 'bert'"):
        Bert(load(tmp_path)).open_samples(tmp_path, [tmp_path])
