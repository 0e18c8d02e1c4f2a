"""Curriculum learning and random-LTD with Hugging Face's Trainer; the lines marked `# +` are what they add to it.

The same model, text and methods as plain_torch.py, with gradient accumulation. About 12 seconds of one CPU core.

    python examples/hugging_face_trainer.py
"""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from plain_torch import (
    BATCH,
    DROPPED,
    EASY_FIRST,
    GROWING,
    LAYERS,
    LENGTH,
    MICRO_BATCH,
    rarity,
    read_samples,
    small_gpt2,
)
from transformers import PreTrainedModel, Trainer, TrainingArguments

from dataeff.library import Plan, PlannedCollator, PlannedDataset, make_plan
from dataeff.library.hugging_face import DataEfficiencyCallback


def train(model: PreTrainedModel, samples: torch.Tensor, heldout: torch.Tensor, plan: Plan, **more: Any) -> Trainer:
    """Trains on the plan; the Trainer, whose state holds the logged losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.peak_lr)  # +
    arguments = {
        "per_device_train_batch_size": MICRO_BATCH,
        "gradient_accumulation_steps": BATCH // MICRO_BATCH,
        "max_steps": len(plan),  # +
        "train_sampling_strategy": "sequential",  # +
        "logging_steps": 10,
        "logging_first_step": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        **more,
    }
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**{"output_dir": folder, **arguments}),
            train_dataset=PlannedDataset(plan, samples),  # +
            eval_dataset=heldout,
            data_collator=PlannedCollator(plan),  # +
            optimizers=(optimizer, plan.scheduler(optimizer)),  # +
            callbacks=[DataEfficiencyCallback(plan, plan.attach(model))],  # +
        )
        trainer.train()
    return trainer


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
        trainer = train(small_gpt2(), samples, heldout, plan)
        first = trainer.state.log_history[0]["loss"]
        last = trainer.evaluate()["eval_loss"]
        print(f"{name}: {len(plan)} steps, loss {first:.3f} at first, held-out loss {last:.3f} at the end")


if __name__ == "__main__":
    main()
