"""From config/ to a Study: what `extends` means, and that every mistake is named with its key and a remedy."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dataeff.errors import DataeffError
from dataeff.study.load import extend
from dataeff.study.specs import plan_spec
from tests.factory import ROOT, config, edited_config, load, own_scale, own_variant, path_source

PACING = {"start": "1/8", "end": 1, "over": "1/2"}
TRUNCATE = {"curriculum": {"seqlen": {"apply": "truncate", "pacing": PACING}}}


def error_of(raw: dict[str, Any], root: Path = ROOT) -> str:
    with pytest.raises(DataeffError) as caught:
        load(raw, root)
    return str(caught.value).replace(str(root / "config"), "config")


def error_after_edit(tmp_path: Path, file: str, old: str, new: str) -> str:
    return error_of(config(scale="smoke"), edited_config(tmp_path, file, old, new))


# --- the project's own files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", sorted(path.stem for path in (ROOT / "config/scales").glob("*.yaml")))
def test_every_scale_loads(scale: str) -> None:
    study = load(config(scale=scale))
    assert study.scale_name == scale
    assert study.runs


def test_names_of_runs() -> None:
    raw = config(
        scale="smoke",
        seeds=[1, 2],
        grids={
            "core": [{"family": "gpt", "variants": ["ltd", "baseline"], "data": [1, "2/3", 0.384]}],
            "more": [{"family": "gpt", "variants": ["ltd"]}],
        },
    )
    study = load(raw)
    assert [run.name for run in study.grids["core"]][:6] == [
        "gpt-ltd-100-s1",
        "gpt-ltd-100-s2",
        "gpt-baseline-100-s1",
        "gpt-baseline-100-s2",
        "gpt-ltd-67-s1",
        "gpt-ltd-67-s2",
    ]
    assert "gpt-ltd-38-s1" in [run.name for run in study.runs]
    assert len(study.runs) == 12  # those of the second grid are among the first's
    assert study.find_run("gpt-ltd-67-s2").data == Fraction(2, 3)
    with pytest.raises(DataeffError, match="unknown run 'gpt-ltd-66-s2'; did you mean 'gpt-ltd-67-s2'"):
        study.find_run("gpt-ltd-66-s2")


def test_data_fractions_are_exact() -> None:
    """0.384 is 48/125, not the nearest binary number; 1/2, 0.5 and .50 are one fraction and one run."""
    (run,) = load(own_variant({}, data=[0.384])).runs
    assert run.data == Fraction(48, 125)
    digests = {load(own_variant({}, data=[data])).config_digest for data in ("1/2", 0.5, "0.50", "2/4")}
    assert len(digests) == 1
    study = load(own_variant({}, data=["2/3"]))
    assert plan_spec(study, study.runs[0]).train_tokens == 40960 * 2 // 3


def test_own_variants_and_scales_need_no_file() -> None:
    """What `--configfile` adds: a variant that extends one of config/, a scale that extends another."""
    raw = own_variant({"extends": "composed", "token_drop": {"keep_first": 2}})
    raw |= {"scale": "mine", "scales": own_scale()["scales"]}
    raw["scales"]["mine"]["families"] = {"gpt": {"model": {"layers": 5}, "batch_size": 2}}
    study = load(raw)
    (run,) = study.runs
    assert study.variant(run).token_drop.keep_first == 2
    assert study.variant(run).token_drop.pacing.over == Fraction(699, 1000)
    assert set(study.variant(run).curriculum) == {"seqlen", "vocab_rarity"}
    scale = study.family(run)
    assert (scale.model.layers, scale.batch_size, scale.model.hidden) == (5, 2, 64)


def test_own_keys_are_laid_on_the_files() -> None:
    """A key of a variant of config/ can be changed alone."""
    raw = config(scale="smoke", variants={"gpt": {"ltd": {"token_drop": {"pacing": {"over": "1/2"}}}}})
    study = load(raw)
    drop = study.variants["gpt"]["ltd"].token_drop
    assert (drop.pacing.over, drop.pacing.start) == (Fraction(1, 2), Fraction(1, 16))
    assert study.variants["gpt"]["composed"].token_drop == drop


def test_hardware_is_laid_on_the_scale_s() -> None:
    study = load(config(scale="smoke", hardware={"processes": 2}))
    assert (study.hardware.processes, study.hardware.checkpoint_every) == (2, 10)


# --- extends -------------------------------------------------------------------------------------------------


def test_extends_is_a_chain_and_the_child_overrides() -> None:
    raw = {
        "a": {"x": {"p": 1, "q": 2}, "about": "a's own"},
        "b": {"extends": "a", "x": {"q": 3}},
        "c": {"extends": ["b"], "y": 4},
    }
    assert extend(raw, "c", "t") == {"x": {"p": 1, "q": 3}, "y": 4}
    assert raw["a"] == {"x": {"p": 1, "q": 2}, "about": "a's own"}


def test_two_parents_are_joined_in_any_order() -> None:
    raw = {"a": {"x": {"p": 1}, "z": 0}, "b": {"x": {"q": 2}, "z": 0}}
    for parents in (["a", "b"], ["b", "a"]):
        assert extend({**raw, "c": {"extends": parents}}, "c", "t") == {"x": {"p": 1, "q": 2}, "z": 0}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"x": {"p": 1}}, {"x": {"p": 2}}, r"'a' sets x\.p to 1, 'b' sets x\.p to 2"),
        ({"x": {"p": 1}}, {"x": None}, r"'a' sets x\.p to 1, 'b' sets x to None"),
        ({"x": None}, {"x": {"p": 1}}, r"'a' sets x to None, 'b' sets x\.p to 1"),
    ],
)
def test_parents_in_conflict_name_both(first: Any, second: Any, message: str) -> None:
    raw = {"a": first, "b": second, "c": {"extends": ["a", "b"]}}
    with pytest.raises(DataeffError, match=rf"t\.c: parents in conflict: {message}; set it in 'c' or drop a parent"):
        extend(raw, "c", "t")
    for decided in ({"x": None}, {"x": "own"}):
        assert extend({**raw, "c": {"extends": ["a", "b"], **decided}}, "c", "t") == decided


def test_an_empty_mapping_decides_nothing() -> None:
    raw: dict[str, Any] = {"a": {"x": {"p": 1}}, "b": {"x": {}}, "c": {"extends": ["a", "b"]}}
    assert extend(raw, "c", "t") == {"x": {"p": 1}}
    raw["b"] = {"x": {"p": 2}}
    raw["c"]["x"] = {}
    with pytest.raises(DataeffError, match="parents in conflict"):
        extend(raw, "c", "t")


def test_one_ancestor_by_two_ways_is_no_conflict() -> None:
    raw = {"a": {"x": 1}, "b": {"extends": "a"}, "c": {"extends": "a"}, "d": {"extends": ["b", "c"]}}
    assert extend(raw, "d", "t") == {"x": 1}


def test_extends_that_cannot_be() -> None:
    raw = {"a": {"extends": "b"}, "b": {"extends": "a"}, "c": {"extends": "q"}, "d": {"extends": 3}, "e": 3}
    with pytest.raises(DataeffError, match=r"t\.a: extends itself through a -> b -> a"):
        extend(raw, "a", "t")
    with pytest.raises(DataeffError, match=r"t\.c\.extends: unknown parent 'q'; known: a, b, c, d, e"):
        extend(raw, "c", "t")
    with pytest.raises(DataeffError, match=r"t\.d\.extends: a name or a list of names is needed, found 3"):
        extend(raw, "d", "t")
    with pytest.raises(DataeffError, match=r"t\.e: a mapping is needed, found 3"):
        extend(raw, "e", "t")
    assert "mine: extends itself through mine -> mine" in error_of(own_variant({"extends": "mine"}))


# --- misspelt keys: one line, the place, the nearest key -----------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (config(seed=[1]), "config: unknown key 'seed'; did you mean 'seeds'?"),
        (
            config(grids={"core": [{"family": "gpt", "variant": ["ltd"]}]}),
            "config: grids.core[0]: unknown key 'variant'; did you mean 'variants'?",
        ),
        (
            own_variant({"token_dorp": {}}),
            "config: variants.gpt.mine: unknown key 'token_dorp'; did you mean 'token_drop'?",
        ),
        (
            own_variant({"curriculum": {"seqlen": {"apply": "truncate", "pacing": {**PACING, "mutiple_of": 8}}}}),
            "config: variants.gpt.mine.curriculum.seqlen.pacing: unknown key 'mutiple_of'; did you mean 'multiple_of'?",
        ),
        (
            own_scale(families={"gpt": {"model": {"layer": 3}}}),
            "config: scales.mine.families.gpt.model: unknown key 'layer'; did you mean 'layers'?",
        ),
        (
            config(hardware={"micro_bach": 2}),
            "config: hardware: unknown key 'micro_bach'; did you mean 'micro_batch'?",
        ),
        (config(variants={"gtp": {}}), "config: variants: unknown key 'gtp'; did you mean 'gpt'?"),
        (
            config(sources={"own": {**path_source(Path("x")), "fetch": {"kind": "path", "paht": "x"}}}),
            "config: sources.own.fetch: unknown key 'paht'; did you mean 'path'?",
        ),
    ],
)
def test_a_misspelt_key_of_the_configuration(raw: dict[str, Any], message: str) -> None:
    assert error_of(raw) == message


@pytest.mark.parametrize(
    ("file", "old", "new", "place"),
    [
        ("variants/gpt.yaml", "start: 5/128", "strat: 5/128", "cl_seqtru.curriculum.seqlen.pacing"),
        ("variants/gpt.yaml", "token_drop:", "tokendrop:", "ltd"),
        ("scales/smoke.yaml", "micro_batch", "microbatch", "hardware"),
        ("scales/smoke.yaml", "batch_size", "batchsize", "families.gpt"),
        ("scales/smoke.yaml", "warmup_tokens", "warm_up_tokens", "families.gpt.learning_rate"),
        ("corpora.yaml", "licence:", "license:", "sources.pubmed"),
        ("corpora.yaml", "sha256: b2c5", "sha265: b2c5", "sources.big_txt.fetch"),
        ("corpora.yaml", "max_bytes_per_source", "max_byte_per_source", "corpora.packages_small"),
        ("corpora.yaml", "vocab_size: 4096", "vocab: 4096", "tokenizers.bpe4k"),
        ("tasks.yaml", "choices: 4", "choises: 4", "tasks.last_word"),
    ],
)
def test_a_misspelt_key_of_a_file(tmp_path: Path, file: str, old: str, new: str, place: str) -> None:
    """One line, even where the right key is thereby missing too."""
    found = error_after_edit(tmp_path, file, old, new)
    wrong, right = new.split(":")[0], old.split(":")[0]
    assert found == f"config/{file}: {place}: unknown key '{wrong}'; did you mean '{right}'?"


def test_all_faults_are_told_at_once() -> None:
    raw = own_scale(hardware={"processes": 0, "threads": "two"}, evaluation={"itmes": 3})
    assert error_of(raw).splitlines() == [
        "config: scales.mine.evaluation: unknown key 'itmes'; did you mean 'items'?",
        "config: scales.mine.hardware.processes: a number above 0 is needed; found 0",
        "config: scales.mine.hardware.threads: a whole number is needed; found 'two'",
    ]


# --- names and values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (config(scale="tinny"), "config: scale: unknown scale 'tinny'; did you mean 'tiny'?"),
        (config(grid="cor"), "config: grid: unknown grid 'cor'; did you mean 'core'?"),
        (
            config(grids={"core": [{"family": "bart", "variants": ["ltd"]}]}),
            "config: grids.core[0].family: unknown family 'bart'; did you mean 'bert'?",
        ),
        (
            config(grids={"core": [{"family": "gpt", "variants": ["baseline", "compsed"]}]}),
            "config: grids.core[0].variants: unknown variant 'compsed'; did you mean 'composed'?",
        ),
        (
            own_variant({"curriculum": {"vocab_rarty": {"apply": "select", "pacing": {**PACING, "start": 1}}}}),
            "variants.gpt.mine.curriculum: unknown metric 'vocab_rarty'; did you mean 'vocab_rarity'?",
        ),
        (
            own_scale(corpus="package_small"),
            "scales.mine.corpus: unknown corpus 'package_small'; did you mean 'packages_small'?",
        ),
        (
            own_scale(families={"gpt": {"tokenizer": "bpe4"}}),
            "scales.mine.families.gpt.tokenizer: unknown tokenizer 'bpe4'; did you mean 'bpe4k'?",
        ),
        (
            own_scale(evaluation={"tasks": ["lastword"]}),
            "scales.mine.evaluation.tasks: unknown task 'lastword'; did you mean 'last_word'?",
        ),
        (
            own_variant({"curriculum": {"seqlen": {"apply": "truncat", "pacing": PACING}}}),
            "config: variants.gpt.mine.curriculum.seqlen.apply: unknown apply 'truncat'; did you mean 'truncate'?",
        ),
        (
            own_variant({"curriculum": {"vocab_rarity": {"apply": "truncate", "pacing": PACING}}}),
            "config: variants.gpt.mine: curriculum.vocab_rarity.apply: 'truncate' cuts samples to a length; "
            "only 'seqlen' is one",
        ),
        (
            own_variant({"curriculum": {"seqlen": {"apply": "truncate", "pacing": {**PACING, "end": 100}}}}),
            "config: variants.gpt.mine.curriculum.seqlen: pacing.end is 100; at most 1 (as a fraction of the "
            "sequence length)",
        ),
        (
            own_variant({"token_drop": {"pacing": {**PACING, "over": 2}}}),
            "config: variants.gpt.mine.token_drop.pacing: over is 2; it is a fraction of the run's nominal steps, "
            "above 0 and at most 1",
        ),
        (
            own_variant({"curriculum": ["seqlen"]}),
            "config: variants.gpt.mine.curriculum: a mapping is needed; found a list of 1",
        ),
        (config(seeds=[]), "config: seeds: a list of at least 1 is needed; found a list of 0"),
        (config(seeds=1), "config: seeds: a list is needed; found 1"),
        (config(seeds=["1"]), "config: seeds[0]: a whole number is needed; found '1'"),
        (config(grids={"core": []}), "config: grids.core: a list of at least 1 is needed; found a list of 0"),
        (config(variants=None), "config: variants: a mapping is needed; found nothing"),
        (config(scale=3), "config: scale: a text is needed; found 3"),
        ({"grids": config()["grids"], "seeds": [1]}, "config: scale: this key is missing"),
        (
            config(scales={"My-Scale": {}}),
            "config: scales.My-Scale: a name of lower-case letters, digits and underscores that begins with a "
            "letter is needed; found 'My-Scale'",
        ),
        (
            config(results="my results"),
            "config: results: 'my results': a folder's path without spaces, braces or wildcards is needed",
        ),
        (
            config(tokenizers={"own": {"kind": "unigram"}}),
            "config: tokenizers.own.kind: unknown kind 'unigram'; known: bert, bpe, gpt2, wordpiece",
        ),
        (
            config(tokenizers={"own": {"vocab_size": 400}}),
            "config: tokenizers.own.kind: this key is missing; known: bert, bpe, gpt2, wordpiece",
        ),
        (
            config(tokenizers={"own": {"kind": "bpe", "vocab_size": 30}}),
            "config: tokenizers.own.vocab_size: at least 300 is needed; found 30",
        ),
        (
            own_scale(families={"gpt": {"learning_rate": {"warmup_tokens": 40960}}}),
            "gpt-baseline-100-s1234: learning_rate.warmup_tokens is 40960, the run has only 40960 tokens; lower the "
            "warm-up or raise train_tokens",
        ),
        (
            own_scale(families={"gpt": {"model": {"layers": 2}}}),
            "gpt-ltd-100-s1234: token_drop keeps the first 1 and last 1 of 2 layers whole, so none drops tokens; at "
            "least 3 layers are needed",
        ),
    ],
)
def test_a_wrong_name_or_value(raw: dict[str, Any], message: str) -> None:
    assert error_of(raw) == message


@pytest.mark.parametrize("data", [0, -1, 1.5, "3/2", "half", True, "1/0", [1], None, float("nan")])
def test_data_is_a_fraction_above_0_and_at_most_1(data: Any) -> None:
    found = error_of(own_variant({}, data=[1, data]))
    assert found.startswith("config: grids.core[0].data")
    assert re.search(r"above 0 and at most 1 is needed|is no number; write 2/3, 0\.384 or 1", found)
    assert "\n" not in found


def test_two_data_fractions_of_one_name_are_refused() -> None:
    found = error_of(own_variant({}, data=["1/3", 0.33]))
    assert "data fractions 1/3 and 33/100 share the name 'gpt-mine-33-s1234'" in found


def test_a_warm_up_is_checked_for_every_data_fraction() -> None:
    raw = own_scale(families={"gpt": {"learning_rate": {"warmup_tokens": 20480}}})
    assert error_of(raw).startswith("gpt-baseline-50-s1234: learning_rate.warmup_tokens is 20480")


def test_a_local_source_must_exist_and_have_a_reader(tmp_path: Path) -> None:
    own: dict[str, Any] = config(scale="smoke")
    own["sources"] = {"pubmed": path_source(tmp_path / "nowhere")}
    assert error_of(own) == f"sources.pubmed.fetch.path: {tmp_path}/nowhere: no such file or folder"
    own["sources"] = {"pubmed": path_source(tmp_path, reader="txt")}
    assert error_of(own) == "sources.pubmed.reader: unknown reader 'txt'; did you mean 'text'?"
    own["sources"] = {"pubmed": path_source(tmp_path)}
    assert load(own).sources["pubmed"].fetch.path == str(tmp_path)


def test_only_what_is_used_is_checked(tmp_path: Path) -> None:
    """A source of another corpus may lie on another machine."""
    assert load(config(sources={"far": path_source(tmp_path / "nowhere")})).runs


def test_a_task_s_domain_must_be_in_the_corpus() -> None:
    own = config(tasks={"last_word": {"kind": "last_word", "about": "", "domains": ["Githbu"]}})
    assert error_of(own).endswith("unknown domain 'Githbu'; did you mean 'Github'?")


def test_a_source_that_a_corpus_names_must_exist(tmp_path: Path) -> None:
    found = error_after_edit(tmp_path, "corpora.yaml", "sources: [pubmed,", "sources: [pubmd,")
    assert found == "corpora.packages_small.sources: unknown source 'pubmd'; did you mean 'pubmed'?"


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    root = edited_config(tmp_path, "tasks.yaml", "    choices: 4\n", "    choices: 4\n    choices: 5\n")
    found = error_of(config(), root)
    assert re.fullmatch(r"config/tasks\.yaml:\d+: key 'choices' is given twice", found)
    (root / "config/tasks.yaml").write_text("tasks: {}\n")
    assert "config/tasks.yaml: harness: this key is missing" in error_of(config(), root)
    (root / "config/tasks.yaml").write_text("- 1\n")
    found = error_of(config(), root)
    assert found == "config/tasks.yaml: a mapping of keys to values is needed at its top; found [1]"
    (root / "config/tasks.yaml").unlink()
    assert error_of(config(), root) == "config/tasks.yaml: no such file"


def test_a_grid_named_like_a_rule_is_refused() -> None:
    own = config()
    own["grids"] = {**own["grids"], "plan": own["grids"]["core"]}
    assert error_of(own) == "config: grids.plan: 'plan' is the name of a stage or rule; give the grid another name"


def test_the_reserved_names_are_the_rules() -> None:
    from dataeff.study.checks import RESERVED
    from tests.factory import ROOT

    rules = {
        name
        for path in ROOT.glob("workflow/rules/*.smk")
        for name in re.findall(r"^rule (\w+):", path.read_text(), re.M)
    }
    assert rules | {"all", "index"} == RESERVED


def test_a_key_given_twice_in_config_yaml(tmp_path: Path) -> None:
    root = edited_config(tmp_path, "config.yaml", "scale: tiny", "scale: tiny\nscale: smoke")
    assert re.fullmatch(r"config/config\.yaml:\d+: key 'scale' is given twice", error_of(config(), root))
