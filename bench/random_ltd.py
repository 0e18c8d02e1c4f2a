"""What token dropping and shorter rows save on the clock, against what their tokens promise, and against DeepSpeed.

`python bench/random_ltd.py [--repeats N] [--threads T] [--rows B] [--families gpt,bert]`: whole steps (forward,
backward, clipping, AdamW) of a GPT-2 and of Megatron's BERT, whose mask covers padding, of 8 layers x 256 at length
512; all kinds of steps of a family take turns in one process.

- Token drop: 1/8, 1/4 and 1/2 of the tokens kept in all layers but two, by TokenDrop and by DeepSpeed's own
  RandomLayerTokenDrop. Its operators exist for CUDA only: plain torch stands in for them. Predicted is what the tokens
  of all layers promise: rest + (full - rest) x their share, where `rest` is a step past all layers (embeddings, head,
  loss, clipping, optimizer), measured in the same turns.
- Curriculum: seconds per effective token of shorter rows, as many of them (truncate) or as many as make up for it
  (reshape, GPT only), against rows of full length.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import Ratio, Row, Turns, in_turns, print_machine, print_table
from run_inputs import write_tokenizer
from torch import Tensor, nn

from dataeff.families import Family, find_family
from dataeff.families.bert_network import padding_mask
from dataeff.families.masking import IGNORED, SHARE
from dataeff.memory import keep_freed_memory
from dataeff.study.base import FamilyName
from dataeff.study.types import Model
from dataeff.token_counts import reshaped_rows
from dataeff.token_drop import TokenDrop, transformer_layers
from dataeff.tokens.vocabulary import load

MODEL = Model(layers=8, hidden=256, heads=4, sequence_length=512, dropout=0.0)
DROPPING = tuple(range(1, MODEL.layers - 1))
LENGTH, VOCABULARY, SEED = MODEL.sequence_length, 4096, 1234
KEPT = (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2))
LENGTHS = (*KEPT, Fraction(3, 4))
Part = Mapping[str, Tensor]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--repeats", type=int, default=7, help="turns (default 7)")
    options.add_argument("--threads", type=int, default=1, help="default 1")
    options.add_argument("--rows", type=int, default=8, help="rows of a step (default 8)")
    options.add_argument("--families", default="gpt,bert", help="default: both")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    replace_operators()
    print_machine()
    for name in given.families.split(","):
        turns = in_turns(given.repeats, works_of(name, given.rows))
        what = f"{name}, {MODEL.layers} layers x {MODEL.hidden}, {given.rows} x {LENGTH}, {given.threads} thread(s)"
        print_table(f"Token drop: {what}", drop_rows(turns), "seconds, ours / peer (quartiles)")
        print_table(f"Curriculum: {what}", curriculum_rows(turns, given.rows), "seconds a token, shorter / full")


def works_of(name: FamilyName, rows: int) -> dict[str, Callable[[], None]]:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), name, VOCABULARY)
        family = find_family(name)(load(Path(folder)))
    whole = make_part(name, rows, LENGTH)
    plain, ours, peer = (Network.of(family) for _ in range(3))
    drop, steps = TokenDrop.attach(ours.model, layers=DROPPING, seed=SEED), itertools.count()
    scheduler = wrap(peer.model, rows, mask_name="attention_mask" if name == "bert" else None)
    works: dict[str, Callable[[], None]] = {
        "full": lambda: plain.step(whole),
        "rest": Rest.of(family, whole),
    }
    for share in KEPT:
        kept = int(share * LENGTH)
        works[f"ours {share}"] = Dropping(ours, whole, kept, drop, steps)
        call = WithWholeMask(peer.model) if name == "bert" else peer.model
        works[f"peer {share}"] = Wrapped(peer, whole, kept, scheduler, call)
    for share in LENGTHS:
        for apply in ("truncate", "reshape") if name == "gpt" else ("truncate",):
            part = make_part(name, shorter_rows(apply, rows, int(share * LENGTH)), int(share * LENGTH))
            works[f"{apply} {share}"] = lambda part=part: plain.step(part)
    return works


def make_part(family: FamilyName, rows: int, length: int) -> Part:
    """A micro-batch as the family's loss takes it; in BERT's, half of the rows are a quarter padding."""
    torch.manual_seed(SEED)
    if family == "gpt":
        return {"tokens": torch.randint(VOCABULARY, (rows, length + 1))}
    lengths = torch.full((rows,), length)
    lengths[::2] = length * 3 // 4
    tokens = torch.randint(5, VOCABULARY, (rows, length))
    real = torch.arange(length) < lengths[:, None]
    masked = real & (torch.rand(rows, length) < SHARE)
    return {
        "tokens": tokens * real,
        "types": (torch.arange(length) >= length // 2).long().expand(rows, -1).contiguous(),
        "lengths": lengths,
        "labels": tokens.where(masked, torch.tensor(IGNORED)),
        "swapped": torch.randint(2, (rows,)),
    }


def shorter_rows(apply: str, rows: int, length: int) -> int:
    return rows if apply == "truncate" else int(reshaped_rows(rows, LENGTH, np.array([length]))[0])


@dataclass(frozen=True)
class Network:
    """A model with its optimizer; all of a family begin with the same weights."""

    family: Family
    model: nn.Module
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, family: Family) -> Network:
        torch.manual_seed(SEED)
        model = family.build_model(MODEL).train()
        return cls(family, model, torch.optim.AdamW(model.parameters(), lr=1e-5))

    def step(self, part: Part, call: Callable[..., Any] | None = None) -> None:
        self.update(part, call)
        self.optimizer.zero_grad()

    def update(self, part: Part, call: Callable[..., Any] | None = None) -> None:
        """`call`: what takes the model's arguments, if not the model itself."""
        losses = self.family.loss_sums(call or self.model, part)
        (sum(losses.values()) / part["tokens"].numel()).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


@dataclass(frozen=True)
class Rest:
    """A step that goes past all layers. Their gradients stay those of one whole step, for clipping and optimizer."""

    network: Network
    part: Part
    outside: list[nn.Parameter]

    @classmethod
    def of(cls, family: Family, part: Part) -> Rest:
        network = Network.of(family)
        network.update(part)
        layers = transformer_layers(network.model)
        inside = {id(parameter) for parameter in layers.parameters()}
        for layer in layers:
            layer.forward = past if family.name == "gpt" else past_in_a_tuple
        return cls(network, part, [p for p in network.model.parameters() if id(p) not in inside])

    def __call__(self) -> None:
        for parameter in self.outside:
            parameter.grad = None
        self.network.update(self.part)


def past(hidden_BSD: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_BSD


def past_in_a_tuple(hidden_BSD: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
    return (hidden_BSD,)


@dataclass(frozen=True)
class Dropping:
    """TokenDrop, which draws other tokens at every step, as in a run."""

    network: Network
    part: Part
    kept: int
    drop: TokenDrop
    steps: itertools.count[int]

    def __call__(self) -> None:
        self.drop.set_step(next(self.steps), kept=self.kept, rows_B=torch.arange(len(self.part["tokens"])))
        self.network.step(self.part)


class Scheduler:
    """What DeepSpeed's wrappers ask their scheduler for: the length to keep, and a place for the step's indices."""

    def __init__(self) -> None:
        self.kept, self.random_ltd_layer_num = LENGTH, len(DROPPING)
        self.state: dict[str, object] = {"max_value": LENGTH}

    def get_current_seq(self) -> int:
        return self.kept


class ByKeyword(nn.Module):
    """DeepSpeed's wrapper takes the hidden states alone by position; the models give the mask so, too."""

    def __init__(self, wrapped: nn.Module, mask_name: str | None) -> None:
        super().__init__()
        self.wrapped, self.mask_name = wrapped, mask_name

    def forward(self, hidden_BSD: Tensor, *positional: Tensor | None, **keywords: object) -> Any:
        if self.mask_name is not None:
            keywords[self.mask_name] = positional[0]
        return self.wrapped(hidden_BSD, **keywords)


@dataclass(frozen=True)
class Wrapped:
    """DeepSpeed's wrapper around the same layers."""

    network: Network
    part: Part
    kept: int
    scheduler: Scheduler
    call: Callable[..., Any]

    def __call__(self) -> None:
        self.scheduler.kept = self.kept
        self.network.step(self.part, self.call)


def wrap(model: nn.Module, rows: int, mask_name: str | None) -> Scheduler:
    """Puts DeepSpeed's wrapper around the dropping layers; with a mask's name: as those of an encoder."""
    from deepspeed.runtime.data_pipeline.data_routing.basic_layer import RandomLayerTokenDrop

    settings = {
        "model_mask_name": mask_name,
        "micro_batch_size": rows,
        "hidden_state_order": "batch_seq_dim",
        "model_type": "encoder" if mask_name else "decoder",
    }
    layers, scheduler = transformer_layers(model), Scheduler()
    for number, layer in enumerate(DROPPING):
        wrapped = RandomLayerTokenDrop(layers[layer])
        wrapped.init_config(settings, scheduler, number)
        layers[layer] = ByKeyword(wrapped, mask_name)
    return scheduler


@dataclass(frozen=True)
class WithWholeMask:
    """BERT's forward with its mask as a view [B, 1, S, S], whose rows DeepSpeed's wrapper gathers, too."""

    model: Any

    def __call__(self, input_ids: Tensor, token_type_ids: Tensor, lengths: Tensor, places: Tensor) -> Any:
        width = input_ids.shape[1]
        mask_B1SS = padding_mask(lengths, width, self.model.dtype).expand(-1, -1, width, -1)
        embedded_BSD = self.model.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        hidden_BSD = self.model.bert.encoder(embedded_BSD, attention_mask=mask_B1SS).last_hidden_state
        logits_PV = self.model.cls.predictions(hidden_BSD.flatten(0, 1)[places])
        return logits_PV, self.model.cls.seq_relationship(self.model.bert.pooler(hidden_BSD))


def replace_operators() -> None:
    """DeepSpeed's operators in plain torch, so that its wrapper runs on any device."""
    from deepspeed.ops.random_ltd import dropping_utils

    def places(indices: Tensor, activations: Tensor) -> Tensor:
        return indices.long()[..., None].expand(-1, -1, activations.shape[-1])

    dropping_utils.random_ltd_module = SimpleNamespace(
        token_sort_=lambda indices, length: indices.sort(dim=-1).values,
        token_gather=lambda source, indices, batch_first: source.gather(1, places(indices, source)),
        token_scatter_=lambda target, part, indices, batch_first: target.scatter_(1, places(indices, target), part),
    )


def drop_rows(turns: Turns) -> list[Row]:
    rows = []
    for share in KEPT:
        ours, peer, predicted = f"ours {share}", f"peer {share}", f"predicted {share}"
        tokens = float((MODEL.layers - len(DROPPING) + share * len(DROPPING)) / MODEL.layers)
        both = with_prediction(turns, predicted, tokens)
        rows.append(compared(f"{share} kept: TokenDrop, prediction", both, ours, predicted, "at most 1.03x"))
        rows.append(compared(f"{share} kept: TokenDrop, DeepSpeed's wrapper", both, ours, peer, "at most 1x"))
    return rows


def with_prediction(turns: Turns, name: str, tokens: float) -> Turns:
    """The turns with what they predict of a step whose layers see this share of the tokens."""

    def predicted(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
        found = [rest + (full - rest) * tokens for rest, full in zip(seconds["rest"], seconds["full"], strict=True)]
        return {**seconds, name: found}

    return Turns(predicted(turns.seconds), predicted(turns.processor_seconds))


def compared(what: str, turns: Turns, ours: str, peer: str, goal: str) -> Row:
    ratio, processor = turns.ratio(ours, peer), turns.processor_ratio(ours, peer)
    texts = [f"{turns.median(name):.2f} s, {turns.ratio(name, 'full').median:.3f} of full" for name in (ours, peer)]
    return Row(f"{what} (processor time {processor.median:.3f}x)", *texts, ratio.median, goal, ratio.quartiles)


def curriculum_rows(turns: Turns, rows: int) -> list[Row]:
    found = []
    for name in turns.seconds:
        apply, _, share = name.partition(" ")
        if apply not in ("truncate", "reshape"):
            continue
        length = int(Fraction(share) * LENGTH)
        tokens, whole = shorter_rows(apply, rows, length) * length, rows * LENGTH
        ratio = scaled(turns.ratio(name, "full"), whole / tokens)
        processor = scaled(turns.processor_ratio(name, "full"), whole / tokens)
        texts = [f"{1e6 * turns.median(work) / count:.1f} µs" for work, count in ((name, tokens), ("full", whole))]
        what = f"{apply} to {share}, {tokens} tokens a step (processor time {processor.median:.3f}x)"
        found.append(Row(what, *texts, ratio.median, "at most 1x", ratio.quartiles))
    return found


def scaled(ratio: Ratio, factor: float) -> Ratio:
    return Ratio(ratio.median * factor, (ratio.quartiles[0] * factor, ratio.quartiles[1] * factor))


if __name__ == "__main__":
    main()
