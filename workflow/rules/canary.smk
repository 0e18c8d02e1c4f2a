"""A trial of minutes with the hardware of a training, before any is submitted: `snakemake canary`."""

from dataeff.monitor.trial import MINUTES, Trial, canary_runs

CANARIES = {run.name: Trial.of(study, run) for run in canary_runs(study)}


localrules:
    canary,


rule canary_run:
    input:
        samples=samples_of,
        indexes=indexes_of,
        tokens=tokens_of,
        tokenizer=tokenizer_files_of,
        heldout=rules.corpus.output.heldout,
        probes=lambda wildcards: expand(
            rules.evaluate_items.output, task=CANARIES[wildcards.run].heldout_tasks
        ),
        datasets=lambda wildcards: expand(
            rules.datasets.output, dataset=CANARIES[wildcards.run].datasets
        ),
    output:
        multiext(f"{S}/canary/{{run}}", ".json", ".txt"),
    log:
        f"{S}/logs/canary/{{run}}.log",
    wildcard_constraints:
        run=study_of.one_of(list(CANARIES)),
    threads: study.hardware.threads * study.hardware.processes
    resources:
        **site.training_job(study.hardware.model_copy(update={"minutes": MINUTES})),
    params:
        # It is about the hardware: another one is another trial.
        hardware=study.hardware.model_dump_json(),
        trial=lambda wildcards: CANARIES[wildcards.run].digest,
    message:
        "canary {wildcards.run}"
    shell:
        f"dataeff canary --study ${study_of.FROZEN} --run {{wildcards.run}} --results {R}"
        f" --out {S}/canary/{{wildcards.run}}.json > {{log}} 2>&1"


rule canary:
    input:
        expand(f"{S}/canary/{{run}}.txt", run=CANARIES),
    log:
        f"{S}/logs/canary/told.log",
    message:
        f"canary of scale {study.scale_name}"
    shell:
        "cat {input} | tee {log}"
