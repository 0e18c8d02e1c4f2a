"""The standalone analysis from token files on: what it leaves, how it goes on, and how it fails."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff.analyze import command
from dataeff.analyze.deepspeed_format import open_deepspeed_index
from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.analyze.folder import AnalysisFolder
from dataeff.analyze.metrics import MetricContext, vocab_rarity
from dataeff.analyze.standalone import analyze_tokens
from dataeff.errors import DataeffError
from dataeff.files import read_json
from dataeff.samples import Samples
from tests.analyze.token_files import GPT_VOCABULARY, write_documents, write_sentences

LENGTH = 32
PADDED = 5_120


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("tokens") / "text_document", 1500)


@pytest.fixture(scope="module")
def finished(tokens: Path) -> Path:
    """A finished native analysis."""
    out = tokens.parent / "finished"
    analyze(tokens, out, workers=2)
    return out


def analyze(tokens: Path, out: Path, metrics: tuple[str, ...] = ("vocab_rarity",), **changes: Any) -> None:
    arguments: dict[str, Any] = {"padded_vocab_size": PADDED, "workers": 1, **changes}
    analyze_tokens([tokens], "gpt", arguments.pop("sequence_length", LENGTH), metrics, out, **arguments)


PROGRAM = """
import sys
from argparse import ArgumentParser
from dataeff.analyze import command
from dataeff.errors import DataeffError
parser = ArgumentParser()
command.add_arguments(parser)
try:
    command.run(parser.parse_args())
except DataeffError as error:
    sys.exit(f"dataeff: error: {error}")
"""


def start(tokens: Path, out: Path, *more: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    options = ["--family", "gpt", "--seq-length", str(LENGTH), "--metric", "vocab_rarity", "--out", str(out)]
    vocabulary = [] if "--vocab-size" in more else ["--vocab-size", str(GPT_VOCABULARY)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tokens), *options, *vocabulary, "--workers", "2", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def same_index(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in ("value.npy", "order.npy"))


def test_what_it_leaves(tokens: Path, finished: Path) -> None:
    index, samples = DifficultyIndex.open(finished / "vocab_rarity"), Samples(finished / "samples", [tokens])
    counts = np.load(finished / "total_vocab_freq.npy")
    batch = samples.batch(np.arange(len(samples)))
    assert counts.tolist() == np.bincount(batch.tokens.ravel(), minlength=PADDED + 1).tolist()
    assert index.values.tolist() == vocab_rarity(batch, MetricContext.of(LENGTH, counts)).tolist()
    assert sorted(path.name for path in finished.iterdir()) == [
        "analyze.json",
        "samples",
        "total_vocab_freq.npy",
        "vocab_rarity",
    ]


def test_again_does_nothing(tokens: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    analyze(tokens, finished, workers=1)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_deepspeeds_form_beside_the_native_one(tokens: Path, tmp_path: Path, finished: Path) -> None:
    analyze(tokens, finished, format="deepspeed", metrics=("vocab_rarity", "total_vocab_freq"))
    theirs = open_deepspeed_index(finished / "vocab_rarity", "vocab_rarity")
    assert theirs.order.tolist() == DifficultyIndex.open(finished / "vocab_rarity").order.tolist()
    assert (finished / "total_vocab_freq" / "total_vocab_freq_metric_value.idx").is_file()
    # Left as it was for the other tests.
    for path in [*finished.rglob("*.bin"), *finished.rglob("*.idx")]:
        path.unlink()
    (finished / "total_vocab_freq").rmdir()


def test_native_form_is_not_made_of_deepspeeds(tokens: Path, tmp_path: Path, finished: Path) -> None:
    analyze(tokens, finished, format="deepspeed")
    (finished / "vocab_rarity" / "value.npy").rename(tmp_path / "value.npy")
    with pytest.raises(DataeffError, match="in DeepSpeed's form; give another folder"):
        analyze(tokens, finished)
    (tmp_path / "value.npy").rename(finished / "vocab_rarity" / "value.npy")
    for path in [*finished.rglob("*.bin"), *finished.rglob("*.idx")]:
        path.unlink()
    (finished / "total_vocab_freq").rmdir()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"seed": 4321}, "an analysis with seed 1234, asked for is 4321; give another folder"),
        ({"sequence_length": 64}, "an analysis with sequence_length 32, asked for is 64"),
        ({"epochs": 2}, "epochs 1, asked for is 2"),
    ],
)
def test_another_computation_is_refused(tokens: Path, finished: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(DataeffError, match=fault):
        analyze(tokens, finished, **changes)


def test_changed_token_files_are_refused(tokens: Path, finished: Path) -> None:
    times = tokens.with_suffix(".bin").stat()
    os.utime(tokens.with_suffix(".bin"), ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    try:
        with pytest.raises(DataeffError, match="an analysis with token_files"):
            analyze(tokens, finished)
    finally:
        os.utime(tokens.with_suffix(".bin"), ns=(times.st_atime_ns, times.st_mtime_ns))


def test_another_vocabulary_is_refused(tokens: Path, finished: Path) -> None:
    with pytest.raises(DataeffError, match="counts of a padded vocabulary of 5120, asked for is 5248"):
        analyze(tokens, finished, metrics=("vocab_rarity", "total_vocab_freq"), padded_vocab_size=5_248)


def test_a_second_process_is_told_so(tokens: Path, finished: Path) -> None:
    with AnalysisFolder(finished).owned():
        process = start(tokens, finished)
        _, errors = process.communicate()
    assert process.returncode == 1
    assert "still in use by host" in errors
    assert f"pid {os.getpid()}" in errors


def test_a_folder_of_other_files_is_left_alone(tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(DataeffError, match=r"it holds letters.txt and no analyze.json"):
        analyze(tokens, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


@pytest.mark.parametrize(
    ("metrics", "changes", "fault"),
    [
        (("vocab_rarty",), {}, "unknown metric 'vocab_rarty'; did you mean 'vocab_rarity'"),
        (("seqlen",), {}, "metric 'seqlen' is for bert"),
        (("mtld",), {}, r"metric 'mtld' reads a sample's text; give the tokenizer's folder \(--tokenizer\)"),
        (("vocab_rarity",), {"padded_vocab_size": None}, r"give its size \(--vocab-size\)"),
        ((), {}, "no metric is named"),
    ],
)
def test_what_cannot_end_well_is_refused_first(
    tokens: Path, tmp_path: Path, metrics: tuple[str, ...], changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(DataeffError, match=fault):
        analyze(tokens, tmp_path / "out", metrics, **changes)
    assert not (tmp_path / "out").exists()


def test_pairs_need_their_special_ids(tmp_path: Path) -> None:
    prefix = write_sentences(tmp_path / "text_sentence", 10)
    with pytest.raises(DataeffError, match=r"--special-ids CLS,SEP,PAD; 101,102,0 in BERT's"):
        analyze_tokens([prefix], "bert", 64, ["seqlen"], tmp_path / "out")


def test_a_mismatched_idx(tokens: Path, tmp_path: Path) -> None:
    other = write_documents(tmp_path / "other", 20)
    other.with_suffix(".bin").write_bytes(tokens.with_suffix(".bin").read_bytes())
    with pytest.raises(DataeffError, match=r"other\.bin: \d+ bytes, but .*other\.idx describes"):
        analyze(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_token_beyond_the_vocabulary(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"token id \d+.*1025 bins.*\(part \d of 4 of total_vocab_freq\)"):
        analyze(tokens, tmp_path / "out", padded_vocab_size=1024)
    assert not (tmp_path / "out" / "total_vocab_freq.npy").exists()


def test_a_killed_worker_is_named_and_the_rest_goes_on(tokens: Path, tmp_path: Path, finished: Path) -> None:
    process = start(tokens, tmp_path / "out")
    victim = wait_for(lambda: children(process.pid))[0]
    os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert f"its worker process {victim} was ended by SIGKILL" in errors
    assert "of total_vocab_freq" in errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    analyze(tokens, tmp_path / "out", workers=2)
    assert same_index(tmp_path / "out" / "vocab_rarity", finished / "vocab_rarity")


def test_a_killed_command_goes_on_where_it_was(tokens: Path, tmp_path: Path, finished: Path) -> None:
    out = tmp_path / "out"
    process = start(tokens, out)
    wait_for(lambda: (out / "total_vocab_freq.npy").exists())
    workers = children(process.pid)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    counted = (out / "total_vocab_freq.npy").stat().st_mtime_ns
    parts = read_json(out / ".parts" / "count.json")
    done = out / ".parts" / "vocab_rarity"
    assert not (out / "vocab_rarity").exists()
    # Of other workers, but of as many parts as it was begun with.
    analyze(tokens, out, workers=1)
    assert parts == 8
    assert not done.exists()
    assert (out / "total_vocab_freq.npy").stat().st_mtime_ns == counted
    assert same_index(out / "vocab_rarity", finished / "vocab_rarity")


def test_a_full_disk(tokens: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    process = start(tokens, tmp_path / "out", "--vocab-size", "50257", limit=limit)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "cannot be written (File too large); make room or choose another place, then run again" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_existing_index_files(tokens: Path, tmp_path: Path, finished: Path) -> None:
    existing = {name: finished / "samples" / f"{name}.npy" for name in ("doc_idx", "sample_idx", "shuffle_idx")}
    out = tmp_path / "out"
    with pytest.raises(DataeffError, match="64"):
        analyze(tokens, out, existing=existing, sequence_length=64)
    analyze(tokens, out, existing=existing)
    assert same_index(out / "vocab_rarity", finished / "vocab_rarity")
    assert (out / "samples" / "shuffle_idx.npy").resolve() == existing["shuffle_idx"].resolve()


def parsed(*arguments: str) -> Any:
    parser = ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_command_tells_how_to_go_on(
    tokens: Path, tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--seq-length", "32", "--vocab-size", "5000", "--out", str(finished), "--format", "deepspeed"]
    command.run(parsed(str(tokens), "--family", "gpt", "--metric", "vocab_rarity", *options))
    told = capsys.readouterr().out
    values = np.sort(np.load(finished / "vocab_rarity" / "value.npy"))
    assert f"   50%  {values[(len(values) + 1) // 2 - 1]:>12}\n" in told
    assert f"--train-shuffle-idx-path {finished / 'samples' / 'shuffle_idx.npy'}" in told
    curriculum = json.loads(told[told.index("\n{\n") :])["data_efficiency"]["data_sampling"]["curriculum_learning"]
    assert Path(curriculum["curriculum_metrics"]["vocab_rarity"]["index_to_sample_path"] + ".idx").is_file()
    assert Path(curriculum["curriculum_metrics"]["vocab_rarity"]["index_to_metric_path"] + ".bin").is_file()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--special-ids", "101,102"], "--special-ids 101,102: three numbers"),
        (["--workers", "0"], "--workers 0: 1 or more"),
        (["--short-seq-prob", "2"], "a share, from 0 to 1"),
        (["--samples-mapping", "x.npy"], "--samples-mapping: not of gpt samples"),
        (["--doc-idx", "x.npy"], "x.npy: no such file"),
        (["--split", "a,b"], "split 'a,b': three numbers"),
    ],
)
def test_wrong_arguments(tokens: Path, tmp_path: Path, arguments: list[str], fault: str) -> None:
    required = ["--family", "gpt", "--seq-length", "32", "--metric", "vocab_rarity", "--out", str(tmp_path / "out")]
    with pytest.raises(DataeffError, match=fault):
        command.run(parsed(str(tokens), *required, "--vocab-size", "5000", *arguments))
    assert not (tmp_path / "out").exists()
