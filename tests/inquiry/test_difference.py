"""What differs is said, all of it, and nothing else."""

import pytest

from dataeff.inquiry import difference
from dataeff.inquiry.gpus import GPUS
from dataeff.inquiry.options import diff_arguments
from dataeff.inquiry.price import Price
from dataeff.study.load import Study
from dataeff.study.outside import AskedRun
from dataeff.study.types import FamilyScale, Variant
from tests.inquiry.asking import Asked
from tests.inquiry.variant_changes import BASES, Change, all_fields, changes, run_of, study_of


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(diff_arguments, difference.run, capsys)


def part(lines: list[str], title: str) -> list[str]:
    """The lines below a title, up to the next blank one."""
    first = next(index for index, line in enumerate(lines) if line.startswith(title)) + 1
    last = next((index for index in range(first, len(lines)) if not lines[index]), len(lines))
    return [" ".join(line.split()) for line in lines[first:last]]


def test_one_run_differs_in_nothing(ask: Asked) -> None:
    lines = ask("gpt-composed-50-s1234", "gpt-composed-50-s1234")
    assert part(lines, "Configuration") == ["nothing differs"]
    assert part(lines, "Consequences")[0].startswith("none")


def test_a_leaf_and_what_it_leads_to(ask: Asked) -> None:
    lines = ask("gpt-ltd-50-s1234", "gpt-ltd_flat_lr-50-s1234")
    assert part(lines, "Configuration") == ["lr_scaling inverse_data -> none"]
    assert part(lines, "Consequences") == ["A B", "peak learning rate 3e-3 1.5e-3 x 0.5"]
    assert part(lines, "First step") == ["learning rate step 2: 0.000144886 and 7.24432e-05"]


def test_a_leaf_that_leads_to_nothing(ask: Asked) -> None:
    """At 100% of the data the factor of the learning rate is 1 either way."""
    lines = ask("gpt-ltd-100-s1234", "gpt-ltd_flat_lr-100-s1234", scale="paper")
    assert part(lines, "Configuration") == ["lr_scaling inverse_data -> none"]
    assert part(lines, "Consequences")[0].startswith("none in the plan")


def test_a_whole_branch_is_one_line(ask: Asked) -> None:
    lines = ask("gpt-baseline-100-s1234", "gpt-composed-50-s1234", scale="paper")
    text = " ".join(part(lines, "Configuration"))
    assert "data 1 -> 0.5" in text
    assert (
        "curriculum.seqlen absent -> apply truncate, by value, then hold, start 5/128, end 1, over 0.384, root 1, "
        "multiple_of 8" in text
    )
    assert "token_drop absent -> start 0.0625, end 1, over 0.699" in text
    found = part(lines, "Consequences")
    assert "steps 286,103 188,632 x 0.659" in found
    assert "raw tokens 300.0B 170.0B x 0.567" in found
    assert "peak learning rate 2e-4 4e-4 x 2" in found
    assert "vocab rarity percentile step 0: only B has one (1); the other takes all samples" in part(
        lines, "First step"
    )


def test_pacings_of_both_are_compared_by_leaf_and_duration(ask: Asked) -> None:
    lines = ask("gpt-ltd-100-s1234", "gpt-ltd-67-s1234", scale="paper")
    assert part(lines, "Configuration") == ["data 1 -> 2/3"]
    assert "steps of token drop 200,000 133,333 x 0.667" in part(lines, "Consequences")
    lines = ask("gpt-cl_seqtru-50-s1", "gpt-cl_seqres-50-s1")
    assert part(lines, "Configuration") == ["curriculum.seqlen.apply truncate -> reshape"]
    assert part(lines, "First step")[0] == "rows step 0: 8 and 120"


def test_seeds_differ_in_samples_and_weights(ask: Asked) -> None:
    lines = ask("gpt-ltd-50-s1", "gpt-ltd-50-s2")
    assert part(lines, "Configuration") == ["seed 1 -> 2"]
    found = part(lines, "Consequences")
    assert found[0] == "other samples at every step and other initial weights (seed)"
    assert found[1].startswith("none in the plan")


def test_two_scales(ask: Asked) -> None:
    lines = ask("gpt-composed-50-s1234", "gpt-composed-50-s1234", "--config-b", "scale=paper")
    assert lines[:2] == ["A  gpt-composed-50-s1234 at scale tiny", "B  gpt-composed-50-s1234 at scale paper"]
    found = part(lines, "Configuration")
    assert "model.layers 4 -> 24" in found
    assert "tokenizer.name bpe4k -> gpt2" in found
    assert not any(line.startswith("tokenizer.vocab_size") for line in found)
    assert "steps 140 188,632 x 1,347" in part(lines, "Consequences")


def test_swapped_runs_swap_the_values(ask: Asked) -> None:
    there = part(ask("gpt-cl_seqtru-50-s1", "gpt-cl_seqres-50-s2"), "Configuration")
    back = part(ask("gpt-cl_seqres-50-s2", "gpt-cl_seqtru-50-s1"), "Configuration")
    assert there == ["seed 1 -> 2", "curriculum.seqlen.apply truncate -> reshape"]
    assert back == ["seed 2 -> 1", "curriculum.seqlen.apply reshape -> truncate"]


# --- variants in words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ("cl_voc", "cl_voc_moderate", "learning rate ends at 1/3 of its peak (5e-4) instead of 1.5e-5"),
        ("cl_voc_moderate", "cl_voc_ema", "ends at its peak (1.5e-3) instead of 1/3 of its peak (5e-4)"),
        ("ltd", "one_route", "tokens dropped the same in all layers instead of others in each layer"),
        ("ltd", "layer_drop", "tokens dropped whole samples go past a layer instead of others in each layer"),
        ("baseline", "ltd", "in all layers but the first 1 and the last 1, keeping 16..256 of 256 tokens"),
        ("ltd", "ltd_raw_token_lr", "learning rate follows raw tokens instead of effective (layer-averaged) tokens"),
        ("ltd", "ltd_layer_token_lr", "learning rate follows tokens summed over the layers (LayerToken) instead of"),
        ("baseline", "window", "seqlen only B: attention window 32..256 tokens, in multiples of 8"),
        ("window", "cl_seqtru", "first 10..256 tokens instead of attention window 32..256 tokens; over 38.4%"),
        ("baseline", "length_buckets", "only B: length buckets of up to 32..256 tokens, one of them a step"),
        (
            "cl_warmup",
            "baseline",
            "only A: the lowest 1..50% of the samples by compression ratio, in multiples of 1, growing linearly, "
            "over 20% of the nominal steps, after that all samples alike",
        ),
        ("ltd", "ltd_flat_lr", "peak that of 100% data at any data fraction instead of times 1 / data"),
    ],
)
def test_variants_in_words(ask: Asked, a: str, b: str, words: str) -> None:
    lines = ask(f"gpt-{a}-100-s1234", f"gpt-{b}-100-s1234")
    assert words in " ".join(part(lines, "In words"))


def test_averages_in_words(ask: Asked) -> None:
    mine = "mine: {averaging: {kind: last, count: 6, over: 0.2}}, other: {averaging: {kind: ema, over: 1/30}}"
    settings = (f"variants={{gpt: {{{mine}}}}}",)
    lines = ask("gpt-baseline-100-s1", "gpt-mine-100-s1", settings=settings)
    mean = "mean of 6 states over the last 20% of the steps"
    assert part(lines, "In words") == [f"weights {mean} instead of those after the last step"]
    lines = ask("gpt-mine-100-s1", "gpt-other-100-s1", settings=settings)
    exponential = "exponential average over 1/30 of the nominal steps"
    assert " ".join(part(lines, "In words")) == f"weights {exponential} instead of {mean}"


def test_dropout_in_words(ask: Asked) -> None:
    lines = ask("bert-ltd-100-s1", "bert-ltd_no_dropout-100-s1", scale="paper")
    assert part(lines, "In words") == ["dropout 0 (the variant's) instead of 0.1 (the model's)"]
    assert part(lines, "Consequences")[0] == "other activations are dropped in training (dropout)"


def test_what_no_column_shows_is_a_consequence(ask: Asked) -> None:
    lines = ask("gpt-ltd-100-s1", "gpt-one_route-100-s1")
    assert part(lines, "Consequences")[0] == "other tokens or samples go past the layers (token_drop.route)"
    lines = ask("gpt-cl_voc_moderate-100-s1", "gpt-cl_voc_average-100-s1")
    assert part(lines, "Consequences")[0] == "other weights are evaluated and exported (averaging)"
    assert part(ask("gpt-baseline-100-s1", "gpt-one_route-100-s1"), "Consequences")[0] == "A B"


def test_windows_and_kept_rows_part_at_a_step(ask: Asked) -> None:
    found = part(ask("gpt-baseline-100-s1", "gpt-window-100-s1"), "First step")
    assert found == ["window step 0: only B has one (32); attention of the other sees whole samples"]
    found = part(ask("gpt-layer_drop-100-s1", "gpt-ltd-100-s1"), "First step")
    assert found[0] == "kept rows step 0: only A has one (1); all rows of the other go through every layer"


CHANGES = changes()
PRICE = Price(GPUS["H100"], 0.4, recompute=False, gpus=1, dollars_per_gpu_hour=None)


@pytest.fixture(scope="module")
def changed() -> Study:
    return study_of(BASES, CHANGES)


def side(study: Study, variant: str) -> difference.Side:
    return difference.side_of(AskedRun(study, run_of(variant), in_grid=True), PRICE)


@pytest.mark.parametrize(("number", "change"), list(enumerate(CHANGES)), ids=[change.name for change in CHANGES])
def test_no_change_of_a_variant_is_silent(changed: Study, number: int, change: Change) -> None:
    lines = difference.report(side(changed, change.base), side(changed, f"change{number}"), PRICE)
    keys = [line.split()[0] for line in part(lines, "Configuration")]
    path = ".".join(change.path)
    assert any(key == path or key.startswith(f"{path}.") or path.startswith(f"{key}.") for key in keys)
    assert part(lines, "In words")


def test_every_field_of_a_variant_is_among_the_changes() -> None:
    assert {change.field for change in CHANGES} == all_fields()
    assert not set(Variant.model_fields) & set(FamilyScale.model_fields)  # one would hide the other


def test_the_same_by_another_name_is_no_difference() -> None:
    study = study_of({"one": BASES["drop"], "other": {**BASES["drop"], "about": "said otherwise"}}, [])
    lines = difference.report(side(study, "one"), side(study, "other"), PRICE)
    assert part(lines, "Configuration") == ["nothing differs"]
    assert not any(line.startswith("In words") for line in lines)
