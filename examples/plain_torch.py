"""Curriculum learning and random-LTD in a plain PyTorch loop; the lines marked `# +` are what they add to it.

Trains a small GPT-2 on the bytes of Python's own language reference, once as it is and once with an easy-to-hard
order, growing sequences and dropped tokens, for the same number of effective tokens. About 12 seconds of one CPU core:
too little training for the two losses to say which is better.

    python examples/plain_torch.py
"""

from pydoc_data.topics import topics

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from dataeff.library import Plan, PlanSampler, make_plan

LENGTH, BATCH, MICRO_BATCH, LAYERS = 64, 16, 8, 4
EASY_FIRST = {"apply": "select", "pacing": {"start": 10, "end": 100, "over": "0.4", "root": 2}}
GROWING = {"apply": "truncate", "pacing": {"start": "1/4", "end": 1, "over": "0.4", "multiple_of": 8}}
DROPPED = {"pacing": {"start": "1/4", "end": 1, "over": "0.7", "multiple_of": 8}}


def read_samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples [n, LENGTH + 1] to train on, and others to measure the loss on."""
    text = np.frombuffer("\n".join(topics.values()).encode(), dtype=np.uint8)
    rows = text[: len(text) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    tokens = torch.from_numpy(np.random.default_rng(0).permutation(rows).astype(np.int64))
    return tokens[256:], tokens[:256]


def rarity(samples: torch.Tensor) -> np.ndarray:
    """A difficulty of one's own, one number per sample: how rare its bytes are (the papers' vocabulary rarity)."""
    share = torch.bincount(samples.flatten(), minlength=256).clamp(min=1) / samples.numel()
    return -share.log()[samples].sum(dim=1).numpy()


def small_gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = GPT2Config(
        vocab_size=256, n_positions=LENGTH, n_embd=48, n_layer=LAYERS, n_head=4, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(sizes)


def loss_of(model: PreTrainedModel, rows: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(input_ids=rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())


def train(model: PreTrainedModel, samples: torch.Tensor, plan: Plan) -> list[float]:
    """Trains on the plan; the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters())
    token_drop = plan.attach(model)  # +
    sampler = PlanSampler(plan, micro_batch=MICRO_BATCH)  # +
    loader = DataLoader(samples, batch_sampler=sampler)  # +
    losses = [0.0] * len(plan)
    model.train()
    for part, whole in sampler.batches(loader):  # +
        rows = part.cut(whole)  # +
        part.set_step(token_drop, rows.device)  # +
        loss = loss_of(model, rows) * part.weight  # +
        loss.backward()
        losses[part.step] += float(loss.detach())
        if part.last:  # +
            for group in optimizer.param_groups:
                group["lr"] = plan.lr(part.step)  # +
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return losses


def main() -> None:
    samples, heldout = read_samples()
    run = {
        "samples": len(samples),
        "sequence_length": LENGTH,
        "batch_size": BATCH,
        "train_tokens": 40 * BATCH * LENGTH,
        "layers": LAYERS,
        "learning_rate": {"peak": 3e-3, "minimum": 3e-4, "warmup_tokens": 4 * BATCH * LENGTH},
        "seed": 1234,
    }
    methods = {
        "curriculum": {"rarity": EASY_FIRST, "seqlen": GROWING},  # +
        "token_drop": DROPPED,  # +
        "difficulty": {"rarity": rarity(samples)},  # +
    }
    for name, plan in {"without": make_plan(**run), "with": make_plan(**run, **methods)}.items():
        model = small_gpt2()
        losses = train(model, samples, plan)
        with torch.no_grad():
            heldout_loss = float(loss_of(model.eval(), heldout))
        print(f"{name}: {len(plan)} steps, loss {losses[0]:.3f} at first, held-out loss {heldout_loss:.3f} at the end")


if __name__ == "__main__":
    main()
