import hashlib
from pathlib import Path

import numpy as np
import pytest

from dataeff.admission import FILE, Admission
from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json, write_manifest

IDS = np.random.default_rng(0).permutation(50).astype(np.uint32)


def make_index(folder: Path, ids: np.ndarray = IDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "order.npy", ids)
    write_manifest(folder)
    return folder


def test_an_index_is_referred_to_not_copied(tmp_path: Path) -> None:
    found = Admission.of_index(make_index(tmp_path / "data/analyze/vocab_rarity"))
    plan = tmp_path / "tiny/plan/run"
    plan.mkdir(parents=True)
    facts = found.save(plan)
    assert list(plan.iterdir()) == []
    assert facts["file"] == "../../../data/analyze/vocab_rarity/order.npy"
    assert Admission.load(plan, facts).ids.tolist() == IDS.tolist()


def test_the_results_can_be_moved_and_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "scratch/results/plan").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/results").symlink_to(tmp_path / "scratch/results")
    index = make_index(tmp_path / "home/results/data/index")
    facts = Admission.of_index(index).save(tmp_path / "home/results/plan")
    assert Admission.load(tmp_path / "home/results/plan", facts).ids.tolist() == IDS.tolist()
    (tmp_path / "scratch").rename(tmp_path / "elsewhere")
    assert Admission.load(tmp_path / "elsewhere/results/plan", facts).ids.tolist() == IDS.tolist()


def test_all_three_kinds_have_the_digest_of_the_file(tmp_path: Path) -> None:
    index = make_index(tmp_path / "index")
    digest = hashlib.sha256((index / "order.npy").read_bytes()).hexdigest()
    kinds = Admission.of_ids(IDS), Admission.of_index(index), Admission.of_file(index / "order.npy")
    assert {kind.sha256 for kind in kinds} == {digest}


def test_ids_in_memory_and_a_file_of_our_own_are_written_beside_the_plan(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    facts = Admission.of_ids(IDS).save(first)
    loaded = Admission.load(first, facts)
    assert loaded.save(first) == facts == loaded.save(second)
    assert [file.name for file in second.iterdir()] == [FILE]
    assert Admission.load(second, facts).ids.tolist() == IDS.tolist()


def test_an_index_made_anew_is_refused(tmp_path: Path) -> None:
    index = make_index(tmp_path / "index")
    facts = Admission.of_index(index).save(tmp_path)
    make_index(index, IDS[::-1])
    with pytest.raises(DataeffError, match=r"order.npy: not the order that .* was planned with; run `dataeff plan`"):
        Admission.load(tmp_path, facts)


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    index = make_index(tmp_path / "index")
    facts = Admission.of_index(index).save(tmp_path)
    (index / "order.npy").unlink()
    with pytest.raises(DataeffError, match=r"index/order.npy: no such file; run `dataeff plan` again"):
        Admission.load(tmp_path, facts)


def test_other_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    facts = Admission.of_ids(IDS).save(tmp_path)
    np.save(tmp_path / FILE, IDS[:-1])
    with pytest.raises(DataeffError, match=r"admission.npy: an array of shape \(49,\)"):
        Admission.load(tmp_path, facts)


def test_an_index_that_its_manifest_does_not_describe_is_refused(tmp_path: Path) -> None:
    index = make_index(tmp_path / "index")
    np.save(index / "order.npy", np.arange(7))
    with pytest.raises(DataeffError, match=r"order.npy: \d+ bytes, its manifest says \d+; run `dataeff analyze`"):
        Admission.of_index(index)
    write_json(index / "manifest.json", {**read_json(index / "manifest.json"), "files": {}})
    with pytest.raises(DataeffError, match=r"manifest.json: says nothing of order.npy; run `dataeff analyze`"):
        Admission.of_index(index)
