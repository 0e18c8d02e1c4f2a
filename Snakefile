"""The study: text -> tokens -> samples -> difficulty -> plan -> pretrain -> evaluate, finetune -> tables, figures, report."""

from pathlib import Path

from dataeff.study import workflow as study_of


configfile: Path(workflow.basedir) / "config/config.yaml"


# Used with --software-deployment-method apptainer only; envs/apptainer.def makes it.
container: "envs/dataeff.sif"


study = study_of.prepare(
    config,
    Path(workflow.basedir),
    is_main_process=workflow.is_main_process,
    arguments=workflow.config_settings.config_args,
)

# R: results; D: the corpus; S: the scale. What lies under D is shared by all scales.
R = study.results
D = f"{R}/data/{study.scale.corpus}"
S = f"{R}/{study.scale_name}"
SHARDS = study_of.shard_names(study)


wildcard_constraints:
    run="|".join(study_of.names(study.runs)),
    grid="|".join(study.grids),
    page="|".join(["index", *study.grids]),
    item="|".join(study.data_items),
    tokenizer="|".join(study.tokenizers),
    source="|".join(
        [*study.sources, *expand("tokenizer_{name}", name=study.tokenizers)]
    ),
    part=r"\d+",
    shard="|".join(SHARDS),
    metric=r"[a-z0-9_]+",
    dataset=study_of.one_of(list(study.datasets)),
    group=study_of.one_of(study_of.groups(study)),
    finetuning=study_of.one_of(list(study.finetuning)),


rule all:
    input:
        lambda wildcards: outputs_of(study.grid),
    message:
        f"grid {study.grid} at scale {study.scale_name}"


include: "workflow/rules/common.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/tokens.smk"
include: "workflow/rules/samples.smk"
include: "workflow/rules/analyze.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/canary.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/preview.smk"


for grid in study.grids:

    rule:
        name:
            grid
        input:
            outputs_of(grid),
        message:
            f"grid {grid} at scale {study.scale_name}"


for grid in study.unrunnable:

    rule:
        name:
            grid
        input:
            lambda wildcards, grid=grid: study_of.refuse(study, grid),


onsuccess:
    study_of.end(study)


onerror:
    print(
        "Mend the cause, then the same command again: it reruns only what is missing."
    )
