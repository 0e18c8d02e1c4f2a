import numpy as np
import pytest
import torch

from dataeff.families import gpt
from dataeff.study.types import Model

SAMPLES = np.arange(4 * 65, dtype=np.int64).reshape(4, 65)
MODEL = Model(layers=3, hidden=16, heads=2, sequence_length=64)


def test_truncation_keeps_the_first_tokens() -> None:
    assert (gpt.cut(SAMPLES, 16, "truncate") == SAMPLES[:, :17]).all()
    assert gpt.cut(SAMPLES, 64, "truncate") is SAMPLES
    assert gpt.cut(SAMPLES, 64, None) is SAMPLES


def upstream_reshape(samples: np.ndarray, length: int) -> torch.Tensor:
    """The rows as a torch program that follows the published rule word for word would make them."""
    text = torch.from_numpy(samples)
    pieces = [
        text[row, i * (length + 1) : (i + 1) * (length + 1)]
        for row in range(len(text))
        for i in range(text.shape[1] // (length + 1))
    ]
    pieces += [text[row, -(length + 1) :] for row in range(len(text))]
    keep = min(-(-text.numel() // (length + 1)), len(pieces))
    return torch.stack(pieces[: keep - keep % 2 if keep > 1 else keep])


@pytest.mark.parametrize("length", [8, 16, 24, 40, 56])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_reshape_follows_the_published_rule(length: int, batch: int) -> None:
    assert (gpt.cut(SAMPLES[:batch], length, "reshape") == upstream_reshape(SAMPLES[:batch], length).numpy()).all()


def test_loss_sum_is_the_library_s_own_loss() -> None:
    torch.manual_seed(0)
    network = gpt.build_model(MODEL, vocabulary=128, eos_id=0).eval()
    rows = torch.randint(0, 128, (3, 65))
    with torch.no_grad():
        loss, tokens = gpt.loss_sum(network, rows)
        per_row = [
            network(input_ids=row[None, :-1]).logits.log_softmax(-1)[0].gather(1, row[1:, None]).sum() for row in rows
        ]
    assert tokens == 3 * 64
    assert float(loss) == pytest.approx(-float(sum(per_row)), rel=1e-5)


def test_residual_projections_start_smaller() -> None:
    torch.manual_seed(0)
    network = gpt.build_model(
        Model(layers=8, hidden=256, heads=4, sequence_length=32, init_std=0.02), vocabulary=128, eos_id=0
    )
    weights = dict(network.named_parameters())
    assert weights["transformer.h.3.attn.c_attn.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["transformer.h.3.mlp.c_proj.weight"].std().item() == pytest.approx(
        0.02 / 4, rel=0.05
    )  # sqrt(2 * 8) = 4
