from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from dataeff.errors import DataeffError
from dataeff.finetune.heads import loss_sum, new_network, open_encoder, outputs, start
from dataeff.study.tasks import FinetuneTask
from tests.finetune.conftest import task_of

CHOICE = task_of(head="choice", choices="options", labels=3)
REGRESSION = task_of(head="regression", labels=1, metric="spearman")
ROWS, WIDTH = 6, 16


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    lengths = torch.tensor([16, 9, 4, 16, 12, 7])
    tokens = torch.randint(5, 60, (ROWS, WIDTH)) * (torch.arange(WIDTH) < lengths[:, None])
    return tokens, (torch.arange(WIDTH) >= 5).long().expand(ROWS, -1).contiguous(), lengths


@pytest.mark.parametrize("task", [task_of(labels=3), REGRESSION, CHOICE], ids=["classes", "regression", "choice"])
def test_it_computes_what_the_library_computes(model: Path, task: FinetuneTask) -> None:
    encoder = open_encoder(model, 1)
    network = new_network(encoder, task, dropout=0.0)
    start(network, encoder, seed=5)
    library = type(network)(network.config)
    library.load_state_dict(network.state_dict())
    names = {"choice": "MegatronBertForMultipleChoice"}
    assert type(library).__name__ == names.get(task.head, "MegatronBertForSequenceClassification")
    tokens, types, lengths = batch()
    rows = (2, 3, WIDTH) if task.head == "choice" else (ROWS, WIDTH)
    labels = torch.tensor([0, 2] if task.head == "choice" else [0, 1, 2, 1, 0, 2])
    labels = labels.float() if task.head == "regression" else labels
    found = outputs(network, tokens, types, lengths, task)
    mine = loss_sum(found, labels, task) / len(labels)
    mask = (torch.arange(WIDTH) < lengths[:, None]).long()
    expected = library(
        tokens.view(rows), attention_mask=mask.view(rows), token_type_ids=types.view(rows), labels=labels
    )
    torch.testing.assert_close(found.view(-1), expected.logits.view(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine, expected.loss, rtol=1e-4, atol=1e-5)
    mine.backward()
    expected.loss.backward()
    for (name, one), other in zip(network.named_parameters(), library.parameters(), strict=True):
        assert other.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_the_body_has_the_runs_weights_and_the_head_is_keyed_by_the_seed(model: Path) -> None:
    encoder = open_encoder(model, 1)
    network = new_network(encoder, task_of(), dropout=0.1)
    start(network, encoder, seed=1)
    first = network.classifier.weight.detach().clone()
    pretrained = transformers.MegatronBertForPreTraining.from_pretrained(model)
    assert pretrained.bert.pooler is not None
    for name, weight in pretrained.bert.state_dict().items():
        assert torch.equal(network.bert.state_dict()[name], weight), name
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    torch.rand(3)
    start(network, encoder, seed=1)
    assert torch.equal(network.classifier.weight, first)
    assert torch.equal(network.bert.pooler.dense.weight, pretrained.bert.pooler.dense.weight)
    start(network, encoder, seed=2)
    assert not torch.equal(network.classifier.weight, first)
    assert network.config.hidden_dropout_prob == network.config.attention_probs_dropout_prob == 0.1


def test_a_run_that_continues_text_is_refused(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.evaluate.conftest import END

    tokenizer = transformers.GPT2Config(vocab_size=128, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    folder = tmp_path / "gpt"
    transformers.GPT2LMHeadModel(tokenizer).save_pretrained(folder)
    _write_byte_pairs(folder, END)
    run = '{"run": {"family": "gpt", "variant": "baseline", "data": "1", "seed": 1}, "name": "gpt-baseline-100-s1"}'
    (folder / "run.json").write_text(run)
    with pytest.raises(DataeffError, match="a GPT run; finetuning is for encoders"):
        open_encoder(folder, 1)


def _write_byte_pairs(folder: Path, end: str) -> None:
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.BPE({**{f"t{index}": index for index in range(127)}, end: 127}, []))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end)
    fast.save_pretrained(folder)


def test_an_unfinished_run_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="no such folder; this is no finished run"):
        open_encoder(tmp_path / "absent", 1)
    (tmp_path / "half").mkdir()
    for file in model.iterdir():
        content = file.read_bytes()
        (tmp_path / "half" / file.name).write_bytes(
            content[: len(content) // 2] if file.suffix == ".safetensors" else content
        )
    with pytest.raises(DataeffError, match="cannot be opened"):
        open_encoder(tmp_path / "half", 1)
