"""Fused attention against the library's eager model: the same weights, outputs, gradients and folders."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.megatron_bert.modeling_megatron_bert import MegatronBertSelfAttention

from dataeff.families.bert_network import MegatronBertForPreTraining, SelfAttention, new_network, padding_mask
from dataeff.study.types import Model
from dataeff.token_drop import Route, TokenDrop

LENGTH, ROWS, VOCABULARY = 24, 4, 50
MODEL = Model(layers=3, hidden=32, heads=4, sequence_length=LENGTH, dropout=0.0, init_std=0.2)
PADDED = torch.tensor([LENGTH, 17, 3, 9])
UNPADDED = torch.full((ROWS,), LENGTH)
Outputs = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The tensors are too small to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network_of(model: Model = MODEL) -> MegatronBertForPreTraining:
    torch.manual_seed(0)
    return new_network(model, vocabulary=VOCABULARY, pad_id=0).train()


def library_of(network: MegatronBertForPreTraining) -> transformers.MegatronBertForPreTraining:
    """The library's own class with the same weights."""
    library = transformers.MegatronBertForPreTraining(network.config).train(network.training)
    library.load_state_dict(network.state_dict())
    assert {type(layer.attention.self) for layer in library.bert.encoder.layer} == {MegatronBertSelfAttention}
    return library


def inputs(seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    tokens, types = torch.randint(5, VOCABULARY, (ROWS, LENGTH)), torch.randint(0, 2, (ROWS, LENGTH))
    return {"input_ids": tokens, "token_type_ids": types}


def real_places(lengths: Tensor) -> Tensor:
    return torch.arange(ROWS * LENGTH)[(torch.arange(LENGTH) < lengths[:, None]).flatten()]


def ours(network: nn.Module, lengths: Tensor, given: bool = True) -> Outputs:
    found: Outputs = network(**inputs(), lengths=lengths if given else None, places=real_places(lengths))
    return found


def theirs(library: nn.Module, lengths: Tensor) -> Outputs:
    real = (torch.arange(LENGTH) < lengths[:, None]).long()
    output = library(**inputs(), attention_mask=real)
    return output.prediction_logits.flatten(0, 1)[real_places(lengths)], output.seq_relationship_logits


def gradients(model: nn.Module, outputs: Outputs) -> dict[str, Tensor]:
    model.zero_grad()
    logits_PV, order_B2 = outputs
    (logits_PV.log_softmax(-1)[:, 7].mean() + order_B2.log_softmax(-1)[:, 0].mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_equal(
    network: nn.Module, library: nn.Module, found: Outputs, expected: Outputs, tolerance: float = 1e-5
) -> None:
    """Outputs, and the gradients of all parameters, within the tolerance."""
    assert all(torch.allclose(*pair, atol=tolerance, rtol=tolerance) for pair in zip(found, expected, strict=True))
    ours_by_name, theirs_by_name = gradients(network, found), gradients(library, expected)
    assert ours_by_name.keys() == theirs_by_name.keys()
    for name, gradient in ours_by_name.items():
        assert torch.allclose(gradient, theirs_by_name[name], atol=tolerance, rtol=tolerance), name
    # The attention of every layer matters here: it gets gradients well above the tolerance.
    heights = [gradient.abs().max() for name, gradient in ours_by_name.items() if name.endswith("self.query.weight")]
    assert len(heights) == MODEL.layers
    assert min(heights) > 10 * tolerance


# --- the library's outputs and gradients ---------------------------------------------------------------------


@pytest.mark.parametrize(("lengths", "given"), [(PADDED, True), (UNPADDED, True), (UNPADDED, False)])
def test_outputs_and_gradients_are_the_library_s(lengths: Tensor, given: bool) -> None:
    network = network_of()
    library = library_of(network)
    assert_equal(network, library, ours(network, lengths, given), theirs(library, lengths))


@pytest.mark.parametrize("route", ["each_layer", "one_route", "samples"])
def test_with_tokens_dropped_they_still_are(route: Route) -> None:
    """The rows of 3 and 9 real tokens are left with hardly any, or none, of the 5 kept in some layer."""
    network = network_of()
    library = library_of(network)
    drops = [TokenDrop.attach(model, layers=[0, 1, 2], seed=7, route=route) for model in (network, library)]
    none_left = 0
    for step in range(6):
        for drop in drops:
            drop.set_step(step, kept=5, rows_B=torch.arange(ROWS), rows=ROWS)
        kept = [drops[0].positions(layer, LENGTH) for layer in range(3)]
        none_left += sum(bool((kept_BR >= PADDED[:, None]).all(1).any()) for kept_BR in kept if kept_BR is not None)
        assert_equal(network, library, ours(network, PADDED), theirs(library, PADDED))
    assert none_left > 0 or route == "samples"


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_with_activation_checkpointing_gradients_are_the_same(reentrant: bool) -> None:
    model = MODEL.model_copy(update={"dropout": 0.3})
    found = []
    for recompute in (False, True):
        network = network_of(model)
        if recompute:
            network.gradient_checkpointing_enable({"use_reentrant": reentrant})
            network.enable_input_require_grads()
        torch.manual_seed(5)
        found.append(gradients(network, ours(network, PADDED)))
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-6), name


def test_a_copy_computes_with_its_own_weights() -> None:
    network = network_of().eval()
    copied = copy.deepcopy(network)
    with torch.no_grad():
        before = ours(network, PADDED)
        for layer in copied.bert.encoder.layer:
            layer.attention.self.value.weight.zero_()
        assert torch.equal(ours(network, PADDED)[0], before[0])
        assert not torch.allclose(ours(copied, PADDED)[0], before[0])


@pytest.mark.parametrize("lengths", [PADDED, None])
def test_the_layers_can_be_captured_as_one_graph(lengths: Tensor | None) -> None:
    """`aot_eager` traces forward and backward as a compiler does, and generates no code."""
    network = network_of()
    hidden_BSD = torch.randn(ROWS, LENGTH, MODEL.hidden)
    mask_B11S = None if lengths is None else padding_mask(lengths, LENGTH, torch.float32)
    layer = network.bert.encoder.layer[1]
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=False)
    assert torch.allclose(compiled(hidden_BSD, mask_B11S)[0], layer(hidden_BSD, mask_B11S)[0], atol=1e-6)


# --- names and folders ---------------------------------------------------------------------------------------


def test_weights_names_and_the_folder_are_the_library_s(tmp_path: Path) -> None:
    network = network_of()
    library = library_of(network)
    assert list(network.state_dict()) == list(library.state_dict())
    assert [name for name, _ in network.named_parameters()] == [name for name, _ in library.named_parameters()]
    network.save_pretrained(tmp_path / "ours")
    library.save_pretrained(tmp_path / "library")
    files = {folder: {path.name for path in (tmp_path / folder).iterdir()} for folder in ("ours", "library")}
    assert files["ours"] == files["library"] >= {"config.json", "model.safetensors"}
    for name in files["ours"]:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "library" / name).read_bytes(), name


def test_each_class_opens_the_other_s_folder(tmp_path: Path) -> None:
    network = network_of().eval()
    library = library_of(network)
    network.save_pretrained(tmp_path / "ours")
    library.save_pretrained(tmp_path / "library")
    opened = MegatronBertForPreTraining.from_pretrained(tmp_path / "library").eval()
    reopened = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "ours").eval()
    assert type(reopened) is transformers.MegatronBertForPreTraining
    assert {type(layer.attention.self) for layer in opened.bert.encoder.layer} == {SelfAttention}
    with torch.no_grad():
        assert torch.equal(ours(opened, PADDED)[0], ours(network, PADDED)[0])
        for found, expected in zip(theirs(reopened, PADDED), ours(network, PADDED), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)


# --- padding, precision, dropout -----------------------------------------------------------------------------


def test_nothing_attends_to_padding() -> None:
    """Other padded tokens, other padding's hidden values at every place: the real places' outputs stay, to the bit."""
    network = network_of().eval()
    batch, places = inputs(), real_places(PADDED)
    padding = torch.arange(LENGTH) >= PADDED[:, None]
    other = {name: values.where(~padding, 1) for name, values in batch.items()}
    assert not torch.equal(other["input_ids"], batch["input_ids"])
    with torch.no_grad():
        found, expected = (network(**given, lengths=PADDED, places=places) for given in (other, batch))
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        unmasked = network(**other, lengths=None, places=places)
    assert not torch.allclose(unmasked[0], expected[0], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_of_padding_alone_stays_finite(dtype: torch.dtype) -> None:
    attention = network_of().to(dtype).bert.encoder.layer[0].attention.self
    hidden_BSD = torch.randn(2, LENGTH, MODEL.hidden, dtype=dtype, requires_grad=True)
    context_BSD, _ = attention(hidden_BSD, padding_mask(torch.tensor([0, 5]), LENGTH, dtype))
    context_BSD.float().square().sum().backward()
    assert hidden_BSD.grad is not None
    assert torch.isfinite(context_BSD).all()
    assert torch.isfinite(hidden_BSD.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_mask_marks_what_is_past_each_length_and_takes_a_score_without_overflow(dtype: torch.dtype) -> None:
    mask = padding_mask(torch.tensor([2, 0, 3]), 3, dtype)
    assert mask.shape == (3, 1, 1, 3)
    assert mask.dtype == dtype
    assert (mask == 0).squeeze().tolist() == [[True, True, False], [False, False, False], [True, True, True]]
    assert torch.isfinite(mask - 1000).all()
    assert (torch.tensor([[1000.0, -1000.0, 1000.0]]) + mask.float()[0]).softmax(-1)[0, 0, 2] == 0


def test_bf16_is_fp32_within_its_precision() -> None:
    network = network_of(MODEL.model_copy(update={"init_std": 0.05}))
    half = copy.deepcopy(network).to(torch.bfloat16)
    expected = gradients(network, ours(network, PADDED))
    outputs = ours(half, PADDED)
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    for name, gradient in gradients(half, outputs).items():
        error = (gradient.float() - expected[name]).norm()
        assert error < 0.1 * expected[name].norm() + 1e-4, name


def test_attention_drops_its_share_in_training_alone() -> None:
    """Values of ones come out as the sum of the kept probabilities over 0.75: 1 on average, spread as independent
    draws over near-equal probabilities are: a variance of (0.25 / 0.75) / S.
    """
    length, rows = 64, 32
    model = Model(layers=1, hidden=32, heads=4, sequence_length=length, dropout=0.25, init_std=0.02)
    attention = network_of(model).bert.encoder.layer[0].attention.self
    with torch.no_grad():
        attention.value.weight.zero_()
        attention.value.bias.fill_(1)
        hidden_BSD = 0.01 * torch.randn(rows, length, 32)
        assert torch.allclose(attention.eval()(hidden_BSD)[0], torch.ones(rows, length, 32))
        attention.train()
        torch.manual_seed(3)
        dropped = attention(hidden_BSD)[0]
        torch.manual_seed(3)
        assert torch.equal(attention(hidden_BSD)[0], dropped)  # a resumed run draws the same
    sums = dropped.unflatten(-1, (4, 8))
    assert all(torch.allclose(sums[..., one], sums[..., other]) for one, other in pairwise(range(8)))
    draws = sums[..., 0].flatten()
    variance = 0.25 / 0.75 / length
    assert draws.mean().item() == pytest.approx(1, abs=5 * np.sqrt(variance / len(draws)))
    assert draws.var().item() == pytest.approx(variance, rel=0.1)
