"""What differs is said, all of it, and nothing else."""

from pathlib import Path

import pytest

from dataeff.inquiry import difference
from dataeff.inquiry.options import diff_arguments
from tests.inquiry.asking import Asked


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(diff_arguments, difference.run, tmp_path, capsys)


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
        "curriculum.seqlen absent -> apply truncate, by value, start 5/128, end 1, over 0.384, root 1, multiple_of 8"
        in text
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
