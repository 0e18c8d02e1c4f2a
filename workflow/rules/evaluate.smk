ITEMS = expand(f"{D}/items/{{task}}", task=study.tasks)
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
        mem_mb=1000,
    message:
        "evaluate items {wildcards.task}"
    shell:
        f"dataeff evaluate items --spec {{input.spec}} --heldout {D}/heldout --out {D}/items/{{wildcards.task}} > {{log}} 2>&1"


rule evaluate:
    input:
        spec=f"{S}/specs/evaluate/all.yaml",
        model=rules.pretrain.output,
        tasks=expand("{items}/manifest.json", items=ITEMS),
        heldout=rules.corpus.output.heldout,
    output:
        f"{S}/evaluate/{{run}}/heldout.json",
        expand(f"{S}/evaluate/{{{{run}}}}/{{shots}}shot/scores.json", shots=SHOTS),
    log:
        f"{S}/logs/evaluate/{{run}}.log",
    benchmark:
        f"{S}/benchmarks/evaluate/{{run}}.tsv"
    wildcard_constraints:
        run=study_of.one_of(study_of.prompted(study.runs)),
    threads: study.hardware.threads
    resources:
        mem_mb=2500,
    params:
        tasks=ITEMS,
    message:
        "evaluate {wildcards.run}"
    shell:
        f"dataeff evaluate run --spec {{input.spec}} --model {S}/pretrain/{{wildcards.run}} --heldout {D}/heldout"
        f" --items {{params.tasks}} --threads {study.hardware.threads} --out {S}/evaluate/{{wildcards.run}} > {{log}} 2>&1"


# Of a masked model, which continues no text: no tasks.
use rule evaluate as evaluate_heldout with:
    input:
        spec=f"{S}/specs/evaluate/heldout.yaml",
        model=rules.pretrain.output,
        heldout=rules.corpus.output.heldout,
    output:
        f"{S}/evaluate/{{run}}/heldout.json",
    wildcard_constraints:
        run=study_of.one_of(study_of.not_prompted(study.runs)),
    params:
        tasks=[],
