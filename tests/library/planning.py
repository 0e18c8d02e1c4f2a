"""Small plans, samples and models that the library's tests start from; each test states only its difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from dataeff.library import Plan, make_plan

SAMPLES, LENGTH, BATCH, LAYERS, VOCABULARY = 400, 32, 8, 4, 61
GROWING = {"pacing": {"start": "1/4", "end": 1, "over": "0.6", "multiple_of": 2}}
TRUNCATE = {"seqlen": {"apply": "truncate", **GROWING}}
RESHAPE = {"seqlen": {"apply": "reshape", **GROWING}}
SELECT = {"hardness": {"apply": "select", "pacing": {"start": 10, "end": 100, "over": "0.6"}}}
DROP = {"pacing": {"start": "1/4", "end": 1, "over": "0.9", "multiple_of": 4}}
RATE = {"peak": 1e-3, "minimum": 1e-4, "warmup_tokens": 2 * BATCH * LENGTH}


def small_plan(**changes: Any) -> Plan:
    """A run of 12 nominal steps of 8 x 32 on 4 layers."""
    fields: dict[str, Any] = {
        "samples": SAMPLES,
        "sequence_length": LENGTH,
        "batch_size": BATCH,
        "train_tokens": 12 * BATCH * LENGTH,
        "layers": LAYERS,
        "learning_rate": RATE,
        "seed": 1234,
    }
    return make_plan(**{**fields, **changes})


def token_samples(samples: int = SAMPLES) -> torch.Tensor:
    """[samples, S + 1] random tokens, all rows different."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (samples, LENGTH + 1)))


def small_gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """Without dropout, so that two loops can be compared."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCABULARY, "n_positions": LENGTH, "n_embd": 16, "n_layer": LAYERS, "n_head": 2}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **off)).train()
