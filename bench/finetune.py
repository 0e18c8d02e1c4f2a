"""Finetuning items/s against a bare transformers.Trainer: the same weights, items, batches, dropout and recipe.

`python bench/finetune.py [--items N] [--turns N] [--layers L] [--hidden D] [--length S]`: each side trains a copy of a
model with a head on `--items` made-up items a turn, in turns; every turn is an epoch of batches of 32. The peer
pads each batch to its longest sample, up to a multiple of 8, as ours does in the first row; in the second ours parts a
batch by length, which is how it runs on a CPU. Start-up is left out on both sides; the evaluation between epochs, too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import Row, print_machine, print_table

from dataeff.families.bert_network import new_network as new_bert
from dataeff.finetune import train
from dataeff.finetune.data import Items
from dataeff.finetune.heads import Encoder, new_network, start
from dataeff.finetune.train import Trainer
from dataeff.study.tasks import FinetuneRecipe, FinetuneTask
from dataeff.study.types import Model, Run

VOCABULARY, PAD, CLS, SEP = 4096, 0, 2, 3
WHOLE_BATCH = 10**9
TASK = FinetuneTask(
    about="made up", data="none", table="none", recipe="none", inputs=["text"], evaluation={"none": "evaluation"}
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--items", type=int, default=320, help="of a turn (default 320)")
    options.add_argument("--turns", type=int, default=5, help="default 5")
    options.add_argument("--layers", type=int, default=4, help="default 4")
    options.add_argument("--hidden", type=int, default=128, help="32 values a head (default 128)")
    options.add_argument("--length", type=int, default=37, help="mean tokens of an item (default 37)")
    given = options.parse_args()
    print_machine()
    torch.set_num_threads(1)
    rows = []
    for dropout in (0.1, 0.0):
        encoder = encoder_of(given.layers, given.hidden)
        items = made_up(given.items, given.length)
        recipe = FinetuneRecipe(about="bench", epochs=1, learning_rates=[2e-5], seeds=[1], dropout=dropout)
        ours, peer = Ours(encoder, items, recipe), Peer(encoder, items, recipe)
        sides = {
            "whole batches": lambda ours=ours: ours.epoch(WHOLE_BATCH),
            "batches parted by length": lambda ours=ours: ours.epoch(train.PADDED_TOKENS["cpu"]),
        }
        peer_rate, *rates = in_turns(given.turns, given.items, [peer.epoch, *sides.values()])
        for what, found in zip(sides, rates, strict=True):
            ratio = statistics.median(mine / other for mine, other in zip(found, peer_rate, strict=True))
            rows.append(Row(f"dropout {dropout:g}, {what}", told(found), told(peer_rate), ratio, "1x"))
    size = f"{given.layers} layers of {given.hidden}, one thread, {given.length} tokens an item"
    print_table(f"Finetuning, {size}: items/s, median (best)", rows)


def encoder_of(layers: int, hidden: int) -> Encoder:
    torch.manual_seed(0)
    model = Model(layers=layers, hidden=hidden, heads=hidden // 32, sequence_length=128, dropout=0.0)
    network = new_bert(model, vocabulary=VOCABULARY, pad_id=PAD)
    run = Run(family="bert", variant="baseline", data=1, seed=1)
    tokenizer: Any = argparse.Namespace(pad_id=PAD)
    body = dict(network.bert.state_dict())
    return Encoder(run, run.name, "", network.config, body, tokenizer, torch.device("cpu"))


def made_up(count: int, mean_length: int) -> Items:
    """Sentences whose lengths vary as those of film reviews do."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.gamma(4, mean_length / 4, count).astype(np.int64), 4, 128)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = random.integers(5, VOCABULARY, starts[-1]).astype(np.int32)
    tokens[starts[:-1]], tokens[starts[1:] - 1] = CLS, SEP
    labels = random.integers(0, 2, count)
    return Items(tokens, starts, lengths, labels, 1, np.arange(count), 0)


class Ours:
    """One epoch a turn."""

    def __init__(self, encoder: Encoder, items: Items, recipe: FinetuneRecipe) -> None:
        network = new_network(encoder, TASK, recipe.dropout)
        self.trainer = Trainer("bench", encoder, network, TASK, recipe, items, {"evaluation": items})
        start(network, encoder, seed=1)
        self.optimiser = train.adamw(network, 2e-5, recipe.weight_decay)

    def epoch(self, padded_tokens: int) -> float:
        before = train.PADDED_TOKENS["cpu"]
        train.PADDED_TOKENS["cpu"] = padded_tokens
        begun = time.process_time()
        self.trainer._epoch(self.optimiser, 2e-5, 1, 0, lambda step: None)
        seconds = time.process_time() - begun
        train.PADDED_TOKENS["cpu"] = before
        return seconds


class Clock(transformers.TrainerCallback):
    """This process's seconds from the first step to the last, without the making of optimiser and loader."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.process_time()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.process_time() - self.begun


class Peer:
    """transformers.Trainer as it is, on its own class of model."""

    def __init__(self, encoder: Encoder, items: Items, recipe: FinetuneRecipe) -> None:
        self.items, self.recipe = items, recipe
        config = type(encoder.config).from_dict(
            {
                **encoder.config.to_dict(),
                "hidden_dropout_prob": recipe.dropout,
                "attention_probs_dropout_prob": recipe.dropout,
                "num_labels": 2,
            }
        )
        self.network = transformers.MegatronBertForSequenceClassification(config)
        self.network.bert.load_state_dict(encoder.body)
        self.folder = tempfile.TemporaryDirectory()

    def epoch(self) -> float:
        arguments = transformers.TrainingArguments(
            output_dir=str(Path(self.folder.name)),
            per_device_train_batch_size=self.recipe.batch_size,
            num_train_epochs=1,
            learning_rate=2e-5,
            weight_decay=self.recipe.weight_decay,
            max_grad_norm=self.recipe.clip,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        clock = Clock()
        trainer = transformers.Trainer(
            self.network,
            arguments,
            train_dataset=list(range(len(self.items))),
            data_collator=self._collated,
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return clock.seconds

    def _collated(self, numbers: list[int]) -> dict[str, torch.Tensor]:
        batch = self.items.batch(np.array(numbers), PAD)
        lengths = torch.from_numpy(batch["lengths"])
        return {
            "input_ids": torch.from_numpy(batch["tokens"]),
            "token_type_ids": torch.from_numpy(batch["types"]),
            "attention_mask": (torch.arange(batch["tokens"].shape[1]) < lengths[:, None]).long(),
            "labels": torch.from_numpy(self.items.labels[numbers]),
        }


def in_turns(turns: int, items: int, sides: list[Callable[[], float]]) -> list[list[float]]:
    """Items a second of each side in each turn, by this process's own time; all sides run once before."""
    rates: list[list[float]] = [[] for _ in sides]
    for turn in range(turns + 1):
        for side, found in zip(sides, rates, strict=True):
            seconds = side()
            if turn:
                found.append(items / seconds)
    return rates


def told(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({max(rates):,.0f})"


if __name__ == "__main__":
    main()
