SHOTS = study.scale.evaluation.shots


rule evaluate_items:
    input:
        spec=f"{D}/specs/items-{{task}}.yaml",
        heldout=rules.corpus.output.heldout,
    output:
        f"{D}/items/{{task}}/manifest.json",
    log:
        f"{D}/logs/items-{{task}}.log",
    benchmark:
        f"{D}/benchmarks/items-{{task}}.tsv"
    resources:
        **site.job(study.hardware, memory_mb=1000),
    message:
        "evaluate items {wildcards.task}"
    shell:
        f"dataeff evaluate items --spec {{input.spec}} --heldout {D}/heldout --out {D}/items/{{wildcards.task}} > {{log}} 2>&1"


rule evaluate_heldout:
    input:
        spec=f"{S}/specs/heldout.yaml",
        model=rules.pretrain.output,
        heldout=rules.corpus.output.heldout,
    output:
        f"{S}/evaluate/{{run}}/heldout.json",
    log:
        f"{S}/logs/evaluate/{{run}}-heldout.log",
    benchmark:
        f"{S}/benchmarks/evaluate/{{run}}-heldout.tsv"
    threads: study.hardware.threads
    resources:
        **site.model_job(study.hardware, memory_mb=2500),
    message:
        "evaluate heldout {wildcards.run}"
    shell:
        f"dataeff evaluate heldout --spec {{input.spec}} --model {S}/pretrain/{{wildcards.run}} --heldout {D}/heldout"
        f" --threads {study.hardware.threads} --out {{output}} > {{log}} 2>&1"


rule evaluate:
    input:
        spec=f"{S}/specs/evaluate/{{group}}.yaml",
        model=rules.pretrain.output,
        probes=items_of,
        datasets=datasets_of,
    output:
        expand(
            f"{S}/evaluate/{{{{run}}}}/{{{{group}}}}/{{shots}}shot/scores.json",
            shots=SHOTS,
        ),
    log:
        f"{S}/logs/evaluate/{{run}}-{{group}}.log",
    benchmark:
        f"{S}/benchmarks/evaluate/{{run}}-{{group}}.tsv"
    wildcard_constraints:
        run=study_of.one_of(study_of.prompted(study.runs)),
    threads: study.hardware.threads
    resources:
        **site.model_job(study.hardware, memory_mb=2500),
    params:
        probes=lambda wildcards, input: folders(input.probes),
    message:
        "evaluate {wildcards.run} {wildcards.group}"
    shell:
        f"dataeff evaluate run --spec {{input.spec}} --model {S}/pretrain/{{wildcards.run}} --items {{params.probes}}"
        f" --datasets {{input.datasets}} --state {S}/state/evaluate/{{wildcards.run}}/{{wildcards.group}}"
        f" --threads {study.hardware.threads} --out {S}/evaluate/{{wildcards.run}}/{{wildcards.group}} > {{log}} 2>&1"


rule evaluate_scan:
    input:
        spec=f"{S}/specs/contamination.yaml",
        text=f"{D}/shards/{{shard}}.jsonl.zst",
        datasets=expand(rules.datasets.output, dataset=study.datasets),
    output:
        f"{S}/contamination/parts/{{shard}}.json",
    log:
        f"{S}/logs/contamination/{{shard}}.log",
    benchmark:
        f"{S}/benchmarks/contamination/{{shard}}.tsv"
    resources:
        **site.job(study.hardware, memory_mb=2000),
    message:
        "evaluate scan {wildcards.shard}"
    shell:
        "dataeff evaluate scan --spec {input.spec} --shard {input.text} --datasets {input.datasets} --out {output} > {log} 2>&1"


rule evaluate_contamination:
    input:
        parts=expand(rules.evaluate_scan.output, shard=SHARDS),
    output:
        f"{S}/contamination/report.json",
    log:
        f"{S}/logs/contamination/report.log",
    resources:
        **site.job(study.hardware, memory_mb=1000),
    message:
        "evaluate contamination"
    shell:
        "dataeff evaluate contamination --parts {input.parts} --out {output} > {log} 2>&1"
