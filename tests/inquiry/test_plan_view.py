"""A plan as people see it: the numbers are the plan's, the files hold every row, pools appear with the data."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dataeff.errors import DataeffError
from dataeff.files import write_json, write_manifest
from dataeff.inquiry import plan_view
from dataeff.inquiry.options import plan_arguments
from dataeff.plan import build_plan, steps_table
from dataeff.study.outside import find_run
from dataeff.study.specs import plan_spec
from tests.analyze.native_index import write_native
from tests.inquiry.asking import Asked

RUN = "gpt-composed-50-s1234"
SAMPLES = 5000


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(plan_arguments, plan_view.run, capsys)


def rows(lines: list[str]) -> dict[int, list[str]]:
    """The table's lines by step, as cells."""
    start = next(index for index, line in enumerate(lines) if line.startswith("---")) + 1
    table = [line.split() for line in lines[start:] if line and not line.startswith("written")]
    return {int(cells[0].replace(",", "")): cells for cells in table}


def test_at_paper_scale(ask: Asked) -> None:
    lines = ask(RUN, scale="paper")
    text = " ".join(" ".join(lines).split())
    assert "188,632 of 512 samples (nominal, at full length: 143,051)" in text
    assert "150.0B effective" in text
    assert "170.0B raw" in text
    assert "peak 4e-4 (2 x 2e-4), warm-up over 3.0B tokens, cosine over tokens to 1e-6; follows effective" in text
    assert "80 to 2048 tokens by 8, linear over 55,000 steps; reached at step 54,999" in text
    assert "1 to 100 percent by 1, square root over 55,000 steps; reached at step 54,999" in text
    assert "in layers 1 to 22 of 24, from 0, 128 to 2048 tokens by 16, linear over 100,000 steps" in text
    table = rows(lines)
    assert 15 <= len(table) <= 24
    assert table[0] == ["0", "80", "80", "1", "41.0K", "0"]
    assert table[54_999][1:4] == ["2,048", "1,168", "100"]
    assert " ".join(table[54_999][6:]) == "seqlen done, vocab_rarity done"
    assert " ".join(table[100_000][6:]) == "kept tokens done"
    assert table[188_631][-1] == "last"


def test_bert_and_reshaped_rows(ask: Asked) -> None:
    lines = ask("bert-cl_seqreo-67-s5", scale="paper")
    assert "(in no grid)" in lines[0]
    assert "warm-up over 10,000 steps" in " ".join(lines)
    assert "warm-up done" in " ".join(rows(lines)[10_000])
    assert "rows" in next(line for line in ask("gpt-cl_seqres-100-s1234") if line.lstrip().startswith("step "))


def heading(lines: list[str]) -> str:
    return " ".join(next(line for line in lines if line.lstrip().startswith("step ")).split())


def said(lines: list[str], label: str) -> str:
    """A header line's text, unwrapped."""
    first = next(index for index, line in enumerate(lines) if line.startswith(f"  {label}  "))
    more = [line for line in lines[first + 1 :] if line]
    rest = more[: next((index for index, line in enumerate(more) if line[2] != " "), len(more))]
    return " ".join(" ".join([lines[first].removeprefix(f"  {label}"), *rest]).split())


@pytest.mark.parametrize(
    ("variant", "label", "text"),
    [
        ("window", "seqlen", "attention in blocks of so many tokens, 32 to 256 tokens by 8, linear over 132 steps"),
        ("length_buckets", "seqlen", "one bucket a step, of samples of at most 32 to 256 tokens by 1, linear over 84"),
        ("length_buckets", "bucket lengths", "drawn as if each held as many tokens, until the samples are made"),
        ("length_buckets", "steps", "220 of 2,048 tokens"),
        ("layer_drop", "kept tokens", "dropped: whole samples go past a layer"),
        ("one_route", "kept tokens", "dropped: the same in all layers"),
        ("cl_warmup", "compression_ratio", "1 to 50 percent by 1, linear over 44 steps; reached at step 43"),
        ("cl_warmup", "compression_ratio", "; after that all samples alike"),
        ("cl_voc_moderate", "learning rate", "cosine over tokens to 1/3 of its peak (5e-4); follows effective"),
        ("ltd_raw_token_lr", "learning rate", "to 1.5e-5; follows raw tokens"),
        ("ltd_layer_token_lr", "learning rate", "follows tokens summed over the layers (LayerToken)"),
        (
            "mine",
            "weights",
            "over the last 20% of the steps, those after 184, 191, 198, 206, 213, 220 steps",
        ),
        ("cl_voc_ema", "weights", "exponential average over 5% of the nominal steps: its time constant is 11 steps"),
    ],
)
def test_what_later_work_points_to(ask: Asked, variant: str, label: str, text: str) -> None:
    own = "variants={gpt: {mine: {averaging: {kind: last, count: 6, over: 0.2}}}}"
    assert text in said(ask(f"gpt-{variant}-100-s1234", settings=(own,)), label)


def test_columns_of_later_work(ask: Asked) -> None:
    window = ask("gpt-window-100-s1234")
    assert heading(window) == "step length window eff. tokens rate"
    assert rows(window)[0][1:3] == ["256", "32"]
    assert rows(window)[131][2] == "256"
    layer_drop = ask("gpt-layer_drop-100-s1234")
    assert heading(layer_drop) == "step length rows kept rows eff. tokens rate"
    assert rows(layer_drop)[0][1:4] == ["256", "8", "1"]
    assert rows(layer_drop)[154][1:4] == ["256", "8", "8"]
    buckets = ask("gpt-length_buckets-100-s1234")
    assert heading(buckets) == "step length rows eff. tokens rate"
    assert {int(cells[1]) * int(cells[2]) for cells in rows(buckets).values()} == {8 * 256}
    assert heading(ask("gpt-ltd_raw_token_lr-100-s1234")) == "step length kept raw tokens eff. tokens rate"
    warmup = rows(ask("gpt-cl_warmup-100-s1234"))
    assert (warmup[43][2], warmup[44][2]) == ("50", "100")
    assert " ".join(warmup[44][5:]) == "all samples alike"


def test_kept_rows_are_in_the_files(ask: Asked, tmp_path: Path) -> None:
    ask("gpt-layer_drop-100-s1234", "--csv", str(tmp_path / "a.csv"))
    table = pd.read_csv(tmp_path / "a.csv")
    assert (table["kept_rows"] == np.maximum(1, 8 * table["kept_tokens"] // 256)).all()


def test_the_steps_of_each_bucket_are_counted(ask: Asked) -> None:
    text = said(ask("gpt-length_buckets-100-s1234"), "bucket lengths")
    counts = {int(length): int(steps) for length, steps in re.findall(r"(\d+) \((\d+)\)", text)}
    assert list(counts) == [8, 16, 32, 64, 128, 256]
    assert sum(counts.values()) == 220


def test_made_buckets_are_read(ask: Asked, tmp_path: Path) -> None:
    """Samples of the two longest lengths alone: every step takes one of them, the shorter first."""
    folder = tmp_path / "results/data/packages_small/bpe4k/gpt-256-buckets/samples"
    found = [(8, 0), (16, 0), (32, 0), (64, 0), (128, 900), (256, 700)]
    buckets = [{"length": length, "samples": samples} for length, samples in found]
    write_json(folder / "samples.json", {"samples": 1600, "layout": "buckets", "buckets": buckets})
    lines = ask("gpt-length_buckets-100-s1234", settings=(f"results={tmp_path / 'results'}",))
    text = said(lines, "bucket lengths")
    assert "64 (0), 128 (" in text
    assert "as if each" not in text
    table = rows(lines)
    assert table[0][1:4] == ["128", "16", "900"]
    assert table[219][3] == "1,600"


def test_values_are_the_plans(ask: Asked) -> None:
    args = ask.parse(RUN)
    asked = find_run(args, RUN)
    table = steps_table(plan_spec(asked.study, asked.run))
    for step, cells in rows(ask(RUN)).items():
        row = table.iloc[step]
        assert [int(cell.replace(",", "")) for cell in cells[1:4]] == [
            row["sequence_length"],
            row["kept_tokens"],
            row["vocab_rarity_percentile"],
        ]
        assert float(cells[5]) == pytest.approx(row["learning_rate"], rel=5e-3)


@pytest.mark.parametrize("count", [2, 5, 60, 1000])
def test_about_as_many_rows_as_asked(ask: Asked, count: int) -> None:
    table = rows(ask(RUN, "--rows", str(count)))
    assert {0, 139} <= set(table)
    assert len(table) <= max(count, 8)
    assert list(table) == sorted(table)


def test_files_hold_every_row(ask: Asked, tmp_path: Path) -> None:
    lines = ask(RUN, "--csv", str(tmp_path / "a.csv"), "--parquet", str(tmp_path / "a.parquet"))
    csv, parquet = pd.read_csv(tmp_path / "a.csv"), pd.read_parquet(tmp_path / "a.parquet")
    assert len(csv) == len(parquet) == 140
    assert csv["sequence_length"].tolist() == parquet["sequence_length"].tolist()
    assert np.allclose(csv["learning_rate"], parquet["learning_rate"])
    assert [line.split("/")[-1] for line in lines if line.startswith("written: ")] == ["a.csv", "a.parquet"]


def test_the_picture_is_one(ask: Asked, tmp_path: Path) -> None:
    from matplotlib import image

    panels_of = {RUN: 3, "gpt-baseline-100-s1234": 2, "gpt-layer_drop-100-s1234": 3, "gpt-window-100-s1234": 2}
    panels_of |= {"gpt-length_buckets-100-s1234": 2, "gpt-cl_voc_average-100-s1234": 3}
    for name, panels in panels_of.items():
        ask(name, "--png", str(tmp_path / "plan.png"))
        pixels = image.imread(tmp_path / "plan.png")
        assert pixels.shape[1] == 1400
        assert pixels.shape[0] == round(200 * (0.6 + 1.55 * panels))
        assert pixels[..., :3].std() > 0.05


def data_folder(results: Path) -> Path:
    return results / "data/packages_small/bpe4k/gpt-256"


def test_without_data_pools_are_absent_and_with_data_they_are_shown(ask: Asked, tmp_path: Path) -> None:
    settings = (f"results={tmp_path / 'results'}",)
    before = ask(RUN, settings=settings)
    assert any(line.strip().startswith("sample pools   not shown") for line in before)
    assert not any("pool " in line for line in before if "step" in line)

    folder = data_folder(tmp_path / "results")
    index = folder / "analyze" / "vocab_rarity"
    write_native(index, "vocab_rarity", np.random.default_rng(1).permutation(SAMPLES))
    write_manifest(index)
    write_json(folder / "samples" / "samples.json", {"samples": SAMPLES})
    after = ask(RUN, settings=settings)
    assert any("of 5,000 samples" in line for line in after)
    table = rows(after)
    assert table[0][3:5] == ["16", "800"]
    assert table[139][3:5] == ["100", "5,000"]


def test_a_made_plan_is_read_if_it_is_this_runs(ask: Asked, tmp_path: Path) -> None:
    results = tmp_path / "results"
    settings = (f"results={results}",)
    name = "gpt-baseline-100-s1234"
    asked = find_run(ask.parse(name, settings=settings), name)
    spec = plan_spec(asked.study, asked.run)
    build_plan(spec, 4321, {}).save(results / "tiny" / "plan" / name)
    assert rows(ask(name, settings=settings))[0][2] == "4,321"
    other = spec.model_copy(update={"train_tokens": spec.train_tokens // 2})
    build_plan(other, 4321, {}).save(results / "tiny" / "plan" / name)
    assert any("not shown" in line for line in ask(name, settings=settings))


def test_too_few_rows(ask: Asked) -> None:
    with pytest.raises(DataeffError, match="--rows 1"):
        ask(RUN, "--rows", "1")
