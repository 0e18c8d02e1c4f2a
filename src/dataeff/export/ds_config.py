"""The content of ds_config.json: a run in DeepSpeed's words.

Curricula and random-LTD are written from the run's resolved schedules, in whole tokens, percent and steps, so that the
schedulers that DeepSpeed builds from them give the columns of our plan.
"""

from __future__ import annotations

from typing import Any

from dataeff.analyze.deepspeed_format import INDEX_TO_METRIC, INDEX_TO_SAMPLE, PERCENTILE_MERGED, prefix_of
from dataeff.export.subject import Export
from dataeff.families.traits import TRAITS
from dataeff.study.specs import dropped_layers
from dataeff.study.types import LENGTH_METRIC, MetricCurriculum

LOG_EVERY_STEPS = 100
# The released scripts' names: the data loader looks for the two lengths; the others only name cluster files.
_LENGTHS = {"truncate": "seqlen_truncate", "reshape": "seqlen_reshape"}
_SHORT = {"vocab_rarity": "voc", "seqlen_vocab_rarity": "seqlenvocabrarity"}


def index_kinds(part: MetricCurriculum) -> tuple[str, str]:
    """The files behind index_to_sample_path and index_to_metric_path; the merged one serves percentiles only."""
    return (PERCENTILE_MERGED if part.by == "percentile" else INDEX_TO_SAMPLE), INDEX_TO_METRIC


def ds_config(export: Export) -> dict[str, Any]:
    """The content of ds_config.json, of a run that limits.py lets through. What a run does not use is absent."""
    plan, layout = export.plan, export.layout
    config: dict[str, Any] = {
        "train_batch_size": plan.batch_size,
        "train_micro_batch_size_per_gpu": layout.micro_batch,
        "gradient_accumulation_steps": layout.accumulation_steps(plan.batch_size),
        "steps_per_print": LOG_EVERY_STEPS,
        "zero_optimization": {"stage": layout.zero_stage},
        "gradient_clipping": export.training.adam.clip,
        "prescale_gradients": layout.zero_stage == 0,
        "wall_clock_breakdown": False,
        "dataloader_drop_last": True,
    }
    if export.training.precision == "fp16":
        # The released scripts' loss scale.
        scaling = {"loss_scale": 0, "loss_scale_window": 500, "hysteresis": 2, "min_loss_scale": 1}
        config["fp16"] = {"enabled": True, **scaling, "initial_scale_power": 11}
    elif export.training.precision == "bf16":
        config["bf16"] = {"enabled": True}
    return {**config, "data_efficiency": data_efficiency(export)}


def data_efficiency(export: Export) -> dict[str, Any]:
    """The section of that name; `enabled` is false for a baseline."""
    variant = export.plan.variant
    section: dict[str, Any] = {
        "enabled": bool(variant.curriculum) or variant.token_drop is not None,
        "seed": export.run.seed,
    }
    if variant.token_drop is not None:
        section["data_routing"] = {"enabled": True, "random_ltd": {"enabled": True, **_random_ltd(export)}}
    if variant.curriculum:
        section["data_sampling"] = {
            "enabled": True,
            # More would run ahead of the schedule: batches of a later difficulty than the step's.
            "num_workers": 0,
            "curriculum_learning": {
                "enabled": True,
                "data_cluster_path": str(export.places.clusters),
                "curriculum_metrics": dict(_metric(export, name, part) for name, part in variant.curriculum.items()),
            },
        }
    return section


def metric_name(metric: str, part: MetricCurriculum) -> str:
    """What Megatron-DeepSpeed calls it: seqlen_truncate and seqlen_reshape are how it knows what to do."""
    if metric == LENGTH_METRIC and part.apply != "select":
        return _LENGTHS[part.apply]
    return _SHORT.get(metric, metric)


def _metric(export: Export, metric: str, part: MetricCurriculum) -> tuple[str, dict[str, Any]]:
    schedule = export.pacing[metric]
    selects = part.apply == "select"
    samples, values = (
        (str(prefix_of(export.places.index / metric, metric, kind)) for kind in index_kinds(part))
        if selects
        else ("dummy", "dummy")
    )
    return metric_name(metric, part), {
        "index_to_sample_path": samples,
        "index_to_metric_path": values,
        "difficulty_type": part.by,
        "clustering_type": "schedule_based" if selects else "single_cluster",
        "min_difficulty": schedule.start,
        "max_difficulty": schedule.end,
        "schedule_type": "fixed_root",
        "schedule_config": {
            "total_curriculum_step": schedule.total_steps,
            "difficulty_step": schedule.multiple_of,
            "root_degree": schedule.root,
        },
    }


def _random_ltd(export: Export) -> dict[str, Any]:
    plan, schedule = export.plan, export.pacing["token_drop"]
    layers = dropped_layers(plan.variant, plan.layers)
    return {
        "total_layer_num": plan.layers,
        "random_ltd_layer_num": len(layers),
        "random_ltd_layer_id": layers,
        "model_mask_name": "attention_mask",
        "model_type": "decoder" if TRAITS[export.run.family].causal else "encoder",
        "hidden_state_order": "seq_batch_dim",
        "random_ltd_schedule": {
            "min_value": schedule.start,
            "max_value": schedule.end,
            "schedule_type": "fixed_linear",
            "schedule_config": {"require_steps": schedule.total_steps, "seq_per_step": schedule.multiple_of},
        },
    }
