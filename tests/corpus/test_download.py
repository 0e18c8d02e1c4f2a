"""Downloads from mirrors that break off, stall, lie, or have nothing: resumed, verified, never mixed unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataeff.corpus import address
from dataeff.corpus import download as module
from dataeff.corpus.download import Mirror, Unavailable, download
from dataeff.corpus.partial import Wanted
from dataeff.errors import DataeffError
from dataeff.files import read_json
from tests.corpus.mirror import Server, serving

CONTENT = b"".join(number.to_bytes(4, "big") for number in range(75_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[:150_000] + bytes(150_000)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(address, "TIMEOUT_SECONDS", 1.0)


@pytest.fixture
def one() -> Iterator[Server]:
    with serving({"/file": CONTENT}) as server:
        yield server


@pytest.fixture
def two() -> Iterator[Server]:
    with serving({"/file": CONTENT}) as server:
        yield server


def wanted(folder: Path, *, pinned: bool = True, size: int | None = len(CONTENT)) -> Wanted:
    return Wanted("the file", folder / "kept", "Do this.", SHA256 if pinned else None, size if pinned else None)


def mirrors(*servers: Server) -> list[Mirror]:
    return [Mirror(f"{server.url}/file", lambda server=server: f"{server.url}/file") for server in servers]  # type: ignore[misc]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("fault", ["break", "stall"])
def test_a_broken_download_goes_on_where_it_stopped(one: Server, tmp_path: Path, fault: str, pinned: bool) -> None:
    one.faults.queue = [f"{fault} 100000", f"{fault} 100000"]
    found = download(wanted(tmp_path, pinned=pinned), mirrors(one))
    assert found.path.read_bytes() == CONTENT
    assert found.sha256 == SHA256
    assert one.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert files(tmp_path) == ({"kept"} if pinned else {"kept", "kept.pin.json"})


@pytest.mark.parametrize("fault", ["break 100000", "stall 100000", "503"])
def test_the_next_mirror_takes_over_at_once(one: Server, two: Server, tmp_path: Path, fault: str) -> None:
    one.faults.queue = [fault]
    assert download(wanted(tmp_path), mirrors(one, two)).sha256 == SHA256
    assert len(one.asked) == 1
    assert two.ranges == [None if fault == "503" else "bytes=100000-"]


def test_a_file_without_pin_is_never_put_together_from_two_mirrors(one: Server, two: Server, tmp_path: Path) -> None:
    one.files["/file"] = OTHER
    one.faults.queue = ["break 100000"]
    found = download(wanted(tmp_path, pinned=False), mirrors(one, two))
    assert found.path.read_bytes() == CONTENT
    assert two.ranges == [None]
    assert files(tmp_path) == {"kept", "kept.pin.json"}


def test_a_mirror_without_the_file_is_not_asked_again(one: Server, two: Server, tmp_path: Path) -> None:
    del one.files["/file"]
    two.faults.queue = ["503", "503"]
    assert download(wanted(tmp_path), mirrors(one, two)).sha256 == SHA256
    assert len(one.asked) == 1
    assert len(two.asked) == 3


def test_wrong_bytes_drop_the_mirror(one: Server, two: Server, tmp_path: Path) -> None:
    one.files["/file"] = OTHER
    assert download(wanted(tmp_path), mirrors(one, two)).path.read_bytes() == CONTENT
    assert (one.ranges, two.ranges) == ([None], [None])


def test_bytes_of_a_lying_mirror_are_not_blamed_on_the_next(one: Server, two: Server, tmp_path: Path) -> None:
    one.files["/file"] = OTHER[::-1]
    one.faults.queue = ["break 100000"]
    assert download(wanted(tmp_path), mirrors(one, two)).path.read_bytes() == CONTENT
    assert two.ranges == ["bytes=100000-", None]


def test_another_size_is_refused_before_the_download(one: Server, two: Server, tmp_path: Path) -> None:
    one.files["/file"] = CONTENT + bytes(50_000_000)
    assert download(wanted(tmp_path), mirrors(one, two)).sha256 == SHA256
    with pytest.raises(Unavailable, match=f"50300000 bytes found, {len(CONTENT)} expected"):
        download(wanted(tmp_path / "new"), mirrors(one))
    assert files(tmp_path / "new") == set()


def test_all_faults_are_told(one: Server, two: Server, tmp_path: Path) -> None:
    one.files["/file"] = OTHER
    del two.files["/file"]
    with pytest.raises(Unavailable) as error:
        download(wanted(tmp_path), mirrors(one, two))
    told = str(error.value)
    for fact in (f"{one.url}/file (sha256", "expected; the download was removed", f"{two.url}/file (HTTP Error 404"):
        assert fact in told
    assert told.endswith("Do this.")
    assert files(tmp_path) == set()


def test_a_server_that_ignores_ranges_sends_the_whole_file_again(one: Server, tmp_path: Path) -> None:
    one.faults.ignores_range = True
    one.faults.queue = ["break 100000"]
    assert download(wanted(tmp_path), mirrors(one)).path.read_bytes() == CONTENT


@pytest.mark.parametrize("pinned", [True, False])
def test_a_range_that_is_not_confirmed_is_not_trusted(one: Server, tmp_path: Path, pinned: bool) -> None:
    one.faults.forgets_content_range = True
    one.faults.queue = ["break 100000"]
    assert download(wanted(tmp_path, pinned=pinned), mirrors(one)).path.read_bytes() == CONTENT
    assert one.ranges == [None, "bytes=100000-", None]


def test_a_new_version_on_the_server_is_not_glued_to_the_old(one: Server, tmp_path: Path) -> None:
    one.files["/file"] = OTHER
    one.faults.queue = ["break 100000", "503", "503"]
    with pytest.raises(Unavailable):
        download(wanted(tmp_path, pinned=False), mirrors(one))
    one.files["/file"] = CONTENT
    assert download(wanted(tmp_path, pinned=False), mirrors(one)).path.read_bytes() == CONTENT
    assert one.asked[-1].if_range is not None


def test_without_pin_or_mark_a_download_begins_again(one: Server, tmp_path: Path) -> None:
    one.faults.tells_mark = False
    one.faults.queue = ["break 100000"]
    assert download(wanted(tmp_path, pinned=False), mirrors(one)).path.read_bytes() == CONTENT
    assert one.ranges == [None, None]


def test_without_pin_a_size_must_be_told(one: Server, tmp_path: Path) -> None:
    one.faults.tells_size = False
    with pytest.raises(Unavailable, match="tells no size, so that a file that broke off would look whole"):
        download(wanted(tmp_path, pinned=False), mirrors(one))
    assert download(wanted(tmp_path, size=None), mirrors(one)).sha256 == SHA256


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(one: Server, tmp_path: Path) -> None:
    one.faults.queue = ["break 90000"] * 3
    with pytest.raises(Unavailable, match="the connection ended after 270000 of 300000 bytes"):
        download(wanted(tmp_path), mirrors(one))
    assert download(wanted(tmp_path), mirrors(one)).path.read_bytes() == CONTENT
    assert one.ranges[-1] == "bytes=270000-"


def test_a_download_that_gets_on_may_break_off_any_number_of_times(
    one: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORTHWHILE_BYTES", 20_000)
    one.faults.queue = ["break 20000"] * 14
    assert download(wanted(tmp_path), mirrors(one)).path.read_bytes() == CONTENT


@pytest.mark.parametrize("leftover", [b"x" * 2_000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
def test_a_partial_file_that_is_no_beginning_is_dropped(one: Server, tmp_path: Path, leftover: bytes) -> None:
    (tmp_path / "kept.part").write_bytes(leftover)
    assert download(wanted(tmp_path), mirrors(one)).path.read_bytes() == CONTENT


# --- the cache ----------------------------------------------------------------------------------------------


def test_the_first_download_is_recorded_and_later_ones_are_held_to_it(one: Server, tmp_path: Path) -> None:
    download(wanted(tmp_path, pinned=False), mirrors(one))
    record = read_json(tmp_path / "kept.pin.json")
    assert {key: record[key] for key in ("bytes", "sha256", "url")} == {
        "bytes": len(CONTENT),
        "sha256": SHA256,
        "url": f"{one.url}/file",
    }
    one.asked.clear()
    assert download(wanted(tmp_path, pinned=False), mirrors(one)).sha256 == SHA256
    assert one.asked == []

    (tmp_path / "kept").write_bytes(OTHER)
    with pytest.raises(DataeffError, match=r"kept: sha256 .*changed or damaged since.*or both to take what the source"):
        download(wanted(tmp_path, pinned=False), mirrors(one))

    (tmp_path / "kept").unlink()
    one.files["/file"] = OTHER
    with pytest.raises(Unavailable, match=f"sha256 .* found, {SHA256} expected"):
        download(wanted(tmp_path, pinned=False), mirrors(one))


def test_a_damaged_record_is_named(one: Server, tmp_path: Path) -> None:
    (tmp_path / "kept.pin.json").write_text(json.dumps({"bytes": 3}))
    with pytest.raises(DataeffError, match=r"kept\.pin\.json: no record of a download; remove it"):
        download(wanted(tmp_path, pinned=False), mirrors(one))


def test_a_damaged_pinned_file_is_fetched_again(one: Server, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(OTHER)
    assert download(wanted(tmp_path), mirrors(one)).path.read_bytes() == CONTENT


def test_two_processes_that_want_one_file_share_the_download(one: Server, tmp_path: Path) -> None:
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            found = download(wanted(tmp_path, pinned=False), mirrors(one))
            os._exit(0 if found.sha256 == SHA256 else 1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert len(one.asked) == 1
    assert (tmp_path / "kept").read_bytes() == CONTENT


def test_a_full_disk_is_one_clear_error_and_the_download_goes_on_later(one: Server, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            # A limit on the size of files is the nearest thing to a full disk that needs no privileges.
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            download(wanted(tmp_path), mirrors(one))
        except DataeffError as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(process, 0)
    told = os.read(reader, 10_000).decode()
    os.close(reader)
    assert told.startswith(f"DataeffError: {tmp_path}: ")
    assert "free room, or set `cache` to a folder on a larger disk" in told
    assert not (tmp_path / "kept").exists()
    assert download(wanted(tmp_path), mirrors(one)).path.read_bytes() == CONTENT
    assert one.ranges[-1] == "bytes=100000-"
