rule finetune:
    input:
        spec=f"{S}/specs/finetune/{{finetuning}}.yaml",
        model=rules.pretrain.output,
        dataset=finetuning_dataset_of,
    output:
        f"{S}/finetune/{{run}}/{{finetuning}}/scores.json",
    log:
        f"{S}/logs/finetune/{{run}}-{{finetuning}}.log",
    benchmark:
        f"{S}/benchmarks/finetune/{{run}}-{{finetuning}}.tsv"
    wildcard_constraints:
        run=study_of.one_of(study_of.not_prompted(study.runs)),
    threads: study.hardware.threads
    resources:
        **site.model_job(study.hardware, memory_mb=2500),
    message:
        "finetune {wildcards.run} {wildcards.finetuning}"
    shell:
        f"dataeff finetune --spec {{input.spec}} --model {S}/pretrain/{{wildcards.run}} --dataset {{input.dataset}}"
        f" --state {S}/state/finetune/{{wildcards.run}}/{{wildcards.finetuning}} --threads {study.hardware.threads}"
        f" --out {S}/finetune/{{wildcards.run}}/{{wildcards.finetuning}} > {{log}} 2>&1"
