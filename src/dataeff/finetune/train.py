"""One finetuning: a head and its body trained for some epochs, with the outputs for every split after each of them.

AdamW (no decay of biases and norms), a learning rate that rises over the first steps and falls to 0 in a straight line,
gradients clipped. The order of items is keyed by (seed, epoch), dropout by (seed, step), the head by the seed: the same
spec, weights and number of threads give the same bits on a CPU, whatever ran before in the process. On a graphics card
products are taken in bfloat16, weights and sums stay in float32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.errors import DataeffError
from dataeff.finetune.data import Items, padded
from dataeff.finetune.heads import Encoder, loss_sum, new_network, outputs, start
from dataeff.study.tasks import FinetuneRecipe, FinetuneTask

PADDED_TOKENS = {"cpu": 512, "cuda": 16_384}
"""Of a micro-batch at most, by the kind of device. On a CPU padding costs what text does, and a batch whose samples are
parted by length has little of it; on a graphics card it is memory that is limited (32 items of 4 choices of 512 tokens
are 65,536 tokens).
"""
CHECK_EVERY = 20
"""Steps between two looks at the loss, which would make a graphics card wait."""

Outputs = dict[str, NDArray[np.float32]]
"""By split: [items, classes], or [items] of a regression."""


@dataclass(frozen=True)
class Epoch:
    training_loss: float
    outputs: Outputs


@dataclass(frozen=True)
class Trained:
    learning_rate: float
    seed: int
    steps: int
    seconds: float
    epochs: list[Epoch]


@dataclass(frozen=True)
class Trainer:
    """What the trainings of one task share: the network (set anew by each), the items, the recipe."""

    name: str
    encoder: Encoder
    network: Any
    task: FinetuneTask
    recipe: FinetuneRecipe
    train: Items
    evaluation: Mapping[str, Items]

    @classmethod
    def of(
        cls, name: str, encoder: Encoder, task: FinetuneTask, recipe: FinetuneRecipe, splits: Mapping[str, Items]
    ) -> Trainer:
        network = new_network(encoder, task, recipe.dropout)
        evaluation = {split: splits[split] for split in task.evaluation.values()}
        return cls(name, encoder, network, task, recipe, splits[task.train], evaluation)

    @property
    def steps(self) -> int:
        """Of one training."""
        return self.recipe.epochs * math.ceil(len(self.train) / self.recipe.batch_size)

    def run(self, learning_rate: float, seed: int, show: Callable[[int], None]) -> Trained:
        """One training from the run's weights; `show` is told the steps done."""
        begun = time.monotonic()
        start(self.network, self.encoder, seed)
        optimiser = adamw(self.network, learning_rate, self.recipe.weight_decay)
        epochs = []
        for epoch in range(self.recipe.epochs):
            loss = self._epoch(optimiser, learning_rate, seed, epoch, show)
            found = {split: self.outputs(items) for split, items in self.evaluation.items()}
            for split, values in found.items():
                if not np.isfinite(values).all():
                    raise self._diverged(f"outputs for split '{split}'", learning_rate, seed, epoch)
            epochs.append(Epoch(loss, found))
        return Trained(learning_rate, seed, self.steps, time.monotonic() - begun, epochs)

    def _epoch(
        self, optimiser: torch.optim.Optimizer, learning_rate: float, seed: int, epoch: int, show: Callable[[int], None]
    ) -> float:
        """The mean loss over the steps of one epoch."""
        order = keyed.permute(np.arange(len(self.train)), len(self.train), keyed.key(seed, "finetune order", epoch))
        batches = np.split(order, range(self.recipe.batch_size, len(order), self.recipe.batch_size))
        self.network.train()
        total = torch.zeros((), device=self.encoder.device)
        for number, items in enumerate(batches):
            step = epoch * len(batches) + number
            rate = learning_rate * rate_factor(step, self.steps, self.recipe.warmup)
            total += self._step(optimiser, rate, items, keyed.key(seed, "finetune dropout", step))
            last = number == len(batches) - 1
            if (last or step % CHECK_EVERY == 0) and not math.isfinite(total.item()):
                raise self._diverged("training loss", learning_rate, seed, epoch)
            show(step + 1)
        return total.item() / len(batches)

    def _step(
        self, optimiser: torch.optim.Optimizer, rate: float, items: NDArray[np.int64], dropout_key: int
    ) -> torch.Tensor:
        """One update from the mean loss over these items, whose gradients are added up over micro-batches."""
        torch.manual_seed(dropout_key)
        optimiser.zero_grad()
        total = torch.zeros((), device=self.encoder.device)
        for part in micro_batches(self.train, items, self._padded_tokens):
            labels = torch.from_numpy(self.train.labels[part]).to(self.encoder.device)
            loss = loss_sum(self._forward(self.train, part), labels, self.task) / len(items)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        return total

    @property
    def _padded_tokens(self) -> int:
        return PADDED_TOKENS.get(self.encoder.device.type, PADDED_TOKENS["cpu"])

    def _forward(self, items: Items, numbers: NDArray[np.int64]) -> torch.Tensor:
        device = self.encoder.device
        batch = items.batch(numbers, self.encoder.tokenizer.pad_id)
        part = {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return outputs(self.network, part["tokens"], part["types"], part["lengths"], self.task)

    def outputs(self, items: Items) -> NDArray[np.float32]:
        """Of all items, in their order."""
        self.network.eval()
        parts = micro_batches(items, np.arange(len(items)), self._padded_tokens)
        with torch.inference_mode():
            found = torch.cat([self._forward(items, part) for part in parts]).cpu().numpy()
        placed: NDArray[np.float32] = np.empty_like(found)
        placed[np.concatenate(parts)] = found
        return placed

    def _diverged(self, what: str, learning_rate: float, seed: int, epoch: int) -> DataeffError:
        return DataeffError(
            f"{self.name}: learning rate {learning_rate:g}, seed {seed}: {what} not finite in epoch {epoch + 1}; look "
            f"at the run's own training, or leave this learning rate out of the recipe"
        )


def micro_batches(items: Items, numbers: NDArray[np.int64], padded_tokens: int) -> list[NDArray[np.int64]]:
    """These items by rising length, in parts of at most so many tokens with their padding (an item at least)."""
    ordered = numbers[np.argsort(items.lengths[numbers], kind="stable")]
    parts: list[list[int]] = []
    for number, length in zip(ordered.tolist(), items.lengths[ordered].tolist(), strict=True):
        if parts and (len(parts[-1]) + 1) * items.choices * padded(length) <= padded_tokens:
            parts[-1].append(number)
        else:
            parts.append([number])
    return [np.array(part) for part in parts]


def adamw(network: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Matrices decay, biases and norms do not."""
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in network.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def rate_factor(step: int, steps: int, warmup: Fraction) -> float:
    """The learning rate of a step (from 0) as a part of the peak; 0 at the first step, as the library's schedule is."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return step / rising
    return (steps - step) / max(1, steps - rising)
