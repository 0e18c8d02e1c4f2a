"""BERT's step with fused attention against the library's own, which is eager only: forward and backward on the CPU.

`python bench/bert_attention.py [--repeats N] [--layers L] [--hidden D] [--rows B]`: same weights, same rows, a quarter
of the tokens padding in half of the rows, 15% of the places masked. Three steps take turns in one process: ours; the
library's body with the language-model head at the masked places, as ours has it, so that attention is what differs; and
the library's whole step, with the head at all places. The fastest run of each counts. Dropout draws its numbers in a
pass of its own on a CPU, for which there is no fused kernel.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from common import Row, print_machine, print_table
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from dataeff.families.bert_network import MegatronBertForPreTraining, new_network
from dataeff.families.masking import IGNORED, SHARE
from dataeff.study.types import Model

VOCABULARY = 30_592
"""BERT's uncased word pieces, padded to a multiple of 128."""
LENGTHS = (512, 128)
DROPOUTS = (0.0, 0.1)
GOAL = {(512, 0.0): "1.2x"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--repeats", type=int, default=3, help="runs of each step, in turns (default 3)")
    options.add_argument("--layers", type=int, default=4, help="default 4")
    options.add_argument("--hidden", type=int, default=256, help="64 values a head (default 256)")
    options.add_argument("--rows", type=int, default=16, help="rows of 512 tokens; shorter ones are more (default 16)")
    given = options.parse_args()
    print_machine()
    rows = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        for length in LENGTHS:
            for dropout in DROPOUTS:
                steps = Steps.of(given.layers, given.hidden, given.rows * 512 // length, length, dropout)
                what = f"{threads} thread{'s' * (threads - 1)}, length {length}, dropout {dropout:g}"
                clock = time.perf_counter if threads > 1 else time.process_time
                rows += compared(what, steps, given.repeats, clock, GOAL.get((length, dropout), ""))
                if threads == 1:
                    rows.append(kept(f"length {length}, dropout {dropout:g}: kept for the backward pass", steps))
    size = f"{given.layers} layers of {given.hidden}, {given.rows * 512:,} tokens"
    print_table(f"BERT, {size}: seconds a step, fastest (median)", rows)


@dataclass(frozen=True)
class Steps:
    """One batch through the same weights in three ways; each call is a forward and a backward pass."""

    network: MegatronBertForPreTraining
    library: transformers.MegatronBertForPreTraining
    tokens: Tensor
    types: Tensor
    lengths: Tensor
    labels: Tensor
    order: Tensor

    @classmethod
    def of(cls, layers: int, hidden: int, rows: int, length: int, dropout: float) -> Steps:
        torch.manual_seed(0)
        model = Model(layers=layers, hidden=hidden, heads=hidden // 64, sequence_length=length, dropout=dropout)
        network = new_network(model, vocabulary=VOCABULARY, pad_id=0).train()
        library = transformers.MegatronBertForPreTraining(network.config).train()
        library.load_state_dict(network.state_dict())
        lengths = torch.full((rows,), length)
        lengths[::2] = length * 3 // 4
        tokens = torch.randint(5, VOCABULARY, (rows, length))
        real = torch.arange(length) < lengths[:, None]
        masked = real & (torch.rand(rows, length) < SHARE)
        labels = tokens.where(masked, torch.tensor(IGNORED))
        types = (torch.arange(length) >= length // 2).long().expand(rows, -1).contiguous()
        return cls(network, library, tokens * real, types, lengths, labels, torch.randint(0, 2, (rows,)))

    def ours(self) -> None:
        places = self._places()
        logits_PV, order_B2 = self.network(
            input_ids=self.tokens, token_type_ids=self.types, lengths=self.lengths, places=places
        )
        self._finish(self.network, logits_PV, order_B2, self.labels.flatten()[places])

    def eager(self) -> None:
        places = self._places()
        output = self.library.bert(self.tokens, attention_mask=self._real(), token_type_ids=self.types)
        logits_PV = self.library.cls.predictions(output.last_hidden_state.flatten(0, 1)[places])
        order_B2 = self.library.cls.seq_relationship(output.pooler_output)
        self._finish(self.library, logits_PV, order_B2, self.labels.flatten()[places])

    def whole_library(self) -> None:
        output = self.library(self.tokens, attention_mask=self._real(), token_type_ids=self.types)
        logits = output.prediction_logits.flatten(0, 1)
        self._finish(self.library, logits, output.seq_relationship_logits, self.labels.flatten())

    def _places(self) -> Tensor:
        return (self.labels.flatten() != IGNORED).nonzero().squeeze(1)

    def _real(self) -> Tensor:
        return (torch.arange(self.tokens.shape[1]) < self.lengths[:, None]).long()

    def _finish(self, model: torch.nn.Module, logits: Tensor, order: Tensor, labels: Tensor) -> None:
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED)
        (loss + functional.cross_entropy(order, self.order)).backward()
        model.zero_grad()


def compared(what: str, steps: Steps, repeats: int, clock: Callable[[], float], goal: str) -> list[Row]:
    """`goal` is for what attention alone gives."""
    peers = {"attention": (steps.eager, goal)}
    if not steps.network.config.hidden_dropout_prob:
        peers["whole step"] = (steps.whole_library, "")
    own, *others = in_turns(repeats, [steps.ours, *(step for step, _ in peers.values())], clock)
    return [
        Row(f"{what}: {peer}", told(own), told(seconds), min(seconds) / min(own), wanted)
        for (peer, (_, wanted)), seconds in zip(peers.items(), others, strict=True)
    ]


def kept(what: str, steps: Steps) -> Row:
    ours, peer = saved_bytes(steps.ours), saved_bytes(steps.eager)
    return Row(what, f"{ours / 1e6:,.0f} MB", f"{peer / 1e6:,.0f} MB", peer / ours, "")


def saved_bytes(step: Callable[[], None]) -> int:
    """Of the memory behind all tensors that are kept for the backward pass, each counted once."""
    sizes = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        step()
    return sum(sizes.values())


def in_turns(repeats: int, steps: list[Callable[[], None]], clock: Callable[[], float]) -> list[list[float]]:
    """Seconds of each step's runs; all steps run once before."""
    seconds: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 1):
        for step, found in zip(steps, seconds, strict=True):
            start = clock()
            step()
            if turn:
                found.append(clock() - start)
    return seconds


def told(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} ({statistics.median(seconds):.2f})"


if __name__ == "__main__":
    main()
