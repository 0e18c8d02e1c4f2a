"""What `dataeff tune` refuses before it trains anything, and how it says so."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from dataeff.errors import DataeffError
from tests.pretrain.training import write_text
from tests.tune.small import tune, write_study


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study without data."""
    folder = tmp_path_factory.mktemp("empty")
    write_text(folder / "text")
    return write_study(folder)


def refused(root: Path, *words: str) -> str:
    out = root / "out"
    with pytest.raises(DataeffError) as caught:
        tune(root, *words, "--out", str(out))
    assert not out.exists()
    return str(caught.value)


def test_an_unknown_variant_is_named_with_its_neighbour(empty: Path) -> None:
    message = refused(empty, "cl_seqtri")
    assert "unknown variant 'cl_seqtri'; did you mean 'cl_seqtru'?" in message


def test_an_unknown_pacing_or_one_of_several_is_asked_for(empty: Path) -> None:
    assert "unknown pacing 'seqlen'; known: token_drop" in refused(empty, "ltd", "--metric", "seqlen").replace(
        "did", ""
    )
    assert "--metric seqlen or vocab_rarity or token_drop" in refused(empty, "composed")
    assert "variants.gpt.baseline: it has no pacing to tune" in refused(empty, "baseline")


def test_an_unknown_family_is_named(empty: Path) -> None:
    assert "unknown family 'bert'" in refused(empty, "ltd", "--family", "bert")


def test_missing_data_are_named_with_the_command_that_makes_them(empty: Path) -> None:
    item = "results/data/made_up/bpe320/gpt-64"
    message = refused(empty, "cl_voc", "--config", "seeds=[7]")
    assert message.startswith(f"{empty / item}/samples/samples.json: missing, 3 in all")
    command = shlex.split(message.partition("snakemake")[2])
    assert command == [
        *("--cores", "all", f"{item}/samples/samples.json", f"{item}/analyze/vocab_rarity/index.json"),
        *("results/data/made_up/heldout/manifest.json", "--config", "seeds=[7]"),
    ]
    assert "first put the variant" not in message


def test_data_of_a_variant_in_no_grid_need_one(empty: Path) -> None:
    assert "(first put the variant 'cl_seqres' into a grid, or snakemake knows no such file)" in refused(
        empty, "cl_seqres", "--config", "grid=core"
    )


def test_with_the_samples_made_tokens_are_named_one_by_one(made: Path, tmp_path: Path) -> None:
    missing = made / "results/data/made_up/bpe320/tokens/01.bin"
    kept = missing.rename(tmp_path / "01.bin")
    try:
        assert refused(made, "ltd").startswith(f"{missing}: missing, 1 in all")
    finally:
        kept.rename(missing)


def test_a_learning_rate_without_warmup_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    root = write_study(tmp_path, learning_rate={"peak": 5e-3, "minimum": 5e-5})
    message = refused(root, "ltd")
    assert message.startswith("scales.little.families.gpt.learning_rate: it has no warm-up")
    assert "set warmup_tokens" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "0.9"], "--limit 0.9: at least 1 is needed"),
        (["--multiples", "0"], "--multiples 0: at least 1 is needed"),
        (["--max-trainings", "1"], "--max-trainings 1: at least 2 is needed"),
        (["--multiples", "1", "--probes", "1"], "one probe shows no fluctuation"),
        (["--starts", "65"], "--starts 65: above 0 and at most the pacing's end, 64, is needed"),
        (["--durations", "3/2"], "--durations 3/2: above 0 and at most 1 is needed"),
        (["--name", "ltd"], "--name ltd: lower-case letters, digits and _ are needed, and not the name of the variant"),
        (["--name", "My-ltd"], "--name My-ltd: lower-case letters"),
    ],
)
def test_an_impossible_search_is_refused(made: Path, words: list[str], said: str) -> None:
    assert said in refused(made, "ltd", *words)
