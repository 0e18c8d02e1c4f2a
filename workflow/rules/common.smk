"""Which files a rule reads that depend on its run, grid or page; used by the rules, which hold no logic."""

from dataeff.study import site
from dataeff.study.types import FREQUENCY


def item_of(wildcards):
    """`bpe4k/gpt-256`: tokenizer, family and length; of the item itself, or of the run that uses it."""
    if hasattr(wildcards, "run"):
        return study_of.data_item(study, wildcards.run)
    return wildcards.item


def tokenizer_of(wildcards):
    """The tokenizer's folder."""
    return f"{D}/{Path(item_of(wildcards)).parts[0]}/tokenizer"


def tokenizer_files_of(wildcards):
    return f"{tokenizer_of(wildcards)}/tokenizer.json"


def tokenizer_source_of(wildcards):
    """A published vocabulary, or the text to train on."""
    name = wildcards.tokenizer
    if name in study_of.fetched_tokenizers(study):
        return f"{R}/data/sources/tokenizer_{name}.json"
    return expand(f"{D}/shards/{{shard}}.jsonl.zst", shard=SHARDS)


def prefixes_of(wildcards):
    """The token files, less their suffix."""
    tokenizer = Path(item_of(wildcards)).parts[0]
    return expand(f"{D}/{tokenizer}/tokens/{{shard}}", shard=SHARDS)


def tokens_of(wildcards):
    return expand(
        "{prefix}{suffix}", prefix=prefixes_of(wildcards), suffix=[".bin", ".idx"]
    )


def token_facts_of(grid):
    """The facts of the token files that a grid's runs train on."""
    tokenizers = study_of.tokenizers_of(study, grid)
    return expand(
        f"{D}/{{tokenizer}}/tokens/{{shard}}.json", tokenizer=tokenizers, shard=SHARDS
    )


def samples_of(wildcards):
    return expand(rules.samples.output, item=item_of(wildcards))


def indexes_of(wildcards):
    """The files of the difficulty index of every metric that the run selects by."""
    return expand(
        rules.analyze.output,
        item=item_of(wildcards),
        metric=study_of.metrics_of(study, wildcards.run),
    )


def frequency_of(wildcards):
    """The counts that some metrics weigh tokens by."""
    needed = study_of.weighs_by_frequency(wildcards.metric)
    return expand(rules.analyze_frequency.output, item=wildcards.item) if needed else []


def parts_of(metric):
    """The values of all parts of the samples: as many parts as the corpus has shards."""
    folder = f"{D}/{{item}}/map/{metric}"
    return [
        f"{folder}/{part}{suffix}"
        for part in range(len(SHARDS))
        for suffix in [".npy", ".json"]
    ]


def folders(files):
    """The folders of files, each once."""
    return list(dict.fromkeys(str(Path(file).parent) for file in files))


def results_of(grid):
    """The files of every run of a grid that tables, figures and the report read."""
    runs = study.grids[grid]
    return expand(
        f"{S}/pretrain/{{run}}/{{file}}",
        run=study_of.names(runs),
        file=["run.json", "timings.json", "metrics.jsonl"],
    ) + evaluations_of(runs)


def evaluations_of(runs):
    """The scores of every run: the held-out loss; tasks, of models that continue text; finetuning, of the others."""
    groups = study_of.groups(study)
    prompted, others = study_of.prompted(runs), study_of.not_prompted(runs)
    return [
        *expand(rules.evaluate_heldout.output, run=study_of.names(runs)),
        *expand(rules.evaluate.output, run=prompted, group=groups),
        *expand(rules.finetune.output, run=others, finetuning=study.finetuning),
    ]


def items_of(wildcards):
    """The items from held-out text of a group of tasks."""
    tasks = study_of.heldout_tasks(study, wildcards.group)
    return expand(rules.evaluate_items.output, task=tasks)


def datasets_of(wildcards):
    """The datasets that a group of tasks reads."""
    return expand(
        rules.datasets.output, dataset=study_of.datasets(study, wildcards.group)
    )


def finetuning_dataset_of(wildcards):
    task = study.finetuning[wildcards.finetuning]
    return expand(rules.datasets.output, dataset=task.data)


def grid_of(wildcards):
    """`index` is the default grid's page."""
    return study.grid if wildcards.page == "index" else wildcards.page


def outputs_of(grid):
    """Every file that a grid is made of: the report alone would leave a result unmade that someone deleted."""
    page = "index" if grid == study.grid else grid
    runs = study.grids[grid]
    of_run = [*rules.plan.output, *rules.pretrain.output]
    of_grid = [*rules.tables.output, *rules.figures.output]
    return [
        *expand(of_run, run=study_of.names(runs)),
        *evaluations_of(runs),
        *expand(of_grid, grid=grid),
        *expand(rules.report.output, page=page),
        *(rules.evaluate_contamination.output if study.datasets else []),
    ]
