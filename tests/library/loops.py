"""One small run in a plain loop and in Hugging Face's Trainer. As a module under torchrun: both, on every rank.

torchrun --nproc-per-node 2 -m tests.library.loops FOLDER    # FOLDER/plain.pt, FOLDER/trainer.pt: the weights
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from dataeff.library import Plan, PlannedCollator, PlannedDataset, PlanSampler
from dataeff.library.hugging_face import DataEfficiencyCallback
from tests.library.planning import BATCH, DROP, RATE, RESHAPE, small_gpt2, small_plan, token_samples

SAMPLES = token_samples()


def trainer_of(plan: Plan, folder: Path, **changes: Any) -> Trainer:
    model = changes.pop("model", None) or small_gpt2()
    optimizer = torch.optim.SGD(model.parameters(), lr=plan.peak_lr if plan.has_lr else 0.1)
    parts: dict[str, Any] = {
        "model": model,
        "train_dataset": PlannedDataset(plan, SAMPLES),
        "data_collator": PlannedCollator(plan),
        "optimizers": (optimizer, plan.scheduler(optimizer) if plan.has_lr else None),
        "callbacks": [DataEfficiencyCallback(plan, plan.attach(model))],
    }
    parts |= {name: changes.pop(name) for name in list(changes) if name in parts}
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": BATCH // 2,
        "max_steps": len(plan),
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 0,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **changes,
    }
    return Trainer(args=TrainingArguments(output_dir=str(folder), **arguments), **parts)


def trained_by_a_plain_loop(plan: Plan, rank: int = 0, ranks: int = 1) -> nn.Module:
    """On one rank by whole batches, on several by micro-batches of 2 and DDP."""
    model = small_gpt2()
    drop = plan.attach(model)
    network = model if ranks == 1 else DistributedDataParallel(model)
    sampler = PlanSampler(plan, rank=rank, world_size=ranks, micro_batch=None if ranks == 1 else 2)
    for part, whole in sampler.batches(DataLoader(SAMPLES, batch_sampler=sampler)):
        rows = part.cut(whole)
        part.set_step(drop, rows.device)
        loss = cross_entropy(network(input_ids=rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
        (loss * part.weight * ranks).backward()
        if not part.last:
            continue
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= plan.lr(part.step) * parameter.grad
                parameter.grad = None
    return model


def weights(model: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def composed_plan(curriculum: dict[str, Any]) -> Plan:
    return small_plan(curriculum=curriculum, token_drop=DROP, learning_rate={**RATE, "peak": 0.5})


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    plan = composed_plan(RESHAPE)
    plain = weights(trained_by_a_plain_loop(plan, rank, ranks))
    trainer = trainer_of(plan, folder, gradient_accumulation_steps=BATCH // 2 // ranks, ddp_backend="gloo")
    trainer.train()
    if rank == 0:
        torch.save(plain, folder / "plain.pt")
        torch.save(weights(trainer.model), folder / "trainer.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
