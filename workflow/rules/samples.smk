rule samples:
    input:
        spec=f"{D}/specs/{{item}}/samples.yaml",
        tokens=tokens_of,
    output:
        multiext(f"{D}/{{item}}/samples/", "samples.json", "manifest.json"),
    log:
        f"{D}/{{item}}/logs/samples.log",
    benchmark:
        f"{D}/{{item}}/benchmarks/samples.tsv"
    resources:
        **site.job(study.hardware, memory_mb=1500),
    params:
        prefixes=prefixes_of,
    message:
        "samples {wildcards.item}"
    shell:
        f"dataeff samples --spec {{input.spec}} --tokens {{params.prefixes}} --out {D}/{{wildcards.item}}/samples > {{log}} 2>&1"
