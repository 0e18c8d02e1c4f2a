rule pretrain:
    input:
        spec=f"{S}/specs/pretrain/{{run}}.yaml",
        plan=rules.plan.output,
        samples=samples_of,
        # A plan that selects by one metric refers to the order in its index.
        indexes=indexes_of,
        tokens=tokens_of,
        tokenizer=tokenizer_files_of,
        heldout=rules.corpus.output.heldout,
        # Data that tasks will need fail before a GPU is asked for; new ones train nothing anew.
        datasets=ancient(rules.datasets_ready.output),
    output:
        multiext(
            f"{S}/pretrain/{{run}}/",
            "model.safetensors",
            "config.json",
            "metrics.jsonl",
            "run.json",
            "timings.json",
        ),
    log:
        f"{S}/logs/pretrain/{{run}}.log",
    benchmark:
        f"{S}/benchmarks/pretrain/{{run}}.tsv"
    threads: study.hardware.threads * study.hardware.processes
    resources:
        **site.training_job(study.hardware),
    params:
        samples=lambda wildcards: folders(samples_of(wildcards)),
        prefixes=prefixes_of,
        tokenizer=tokenizer_of,
    message:
        "pretrain {wildcards.run}"
    shell:
        f"{site.training_step(study.hardware)} --state {S}/state/{{wildcards.run}}"
        f" dataeff pretrain --spec {{input.spec}} --plan {S}/plan/{{wildcards.run}} --samples {{params.samples}}"
        f" --tokens {{params.prefixes}} --tokenizer {{params.tokenizer}} --heldout {D}/heldout"
        f" --state {S}/state/{{wildcards.run}} --out {S}/pretrain/{{wildcards.run}}"
        f" {study_of.hardware_options(study)} > {{log}} 2>&1"
