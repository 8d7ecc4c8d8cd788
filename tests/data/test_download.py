"""Downloads that break off are continued, and what came wrong is not kept."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data import download as module
from data.download import RemoteFile, download
from data.errors import HubError, InsufficientStorage
from tests.data.fake_hub import WEIGHTS, FakeHub, fake_hub

PATH = "large-q4_k_m.gguf"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _s: None)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as found:
        yield found


@pytest.fixture
def file(hub: FakeHub) -> RemoteFile:
    url = f"{hub.url}/org/large-GGUF/resolve/main/{PATH}"
    return RemoteFile(PATH, url, len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())


def ranges(hub: FakeHub) -> list[str]:
    return [asked for _path, asked in hub.asked]


def test_a_file_comes_whole(hub: FakeHub, file: RemoteFile, tmp_path: Path) -> None:
    counts: list[int] = []
    assert download(file, tmp_path / "deep" / "x.gguf", advance=counts.append).read_bytes() == WEIGHTS
    assert sum(counts) == len(WEIGHTS)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.gguf"]


def test_a_broken_connection_is_continued_at_once(hub: FakeHub, file: RemoteFile, tmp_path: Path) -> None:
    hub.breaks_after, hub.busy = [1_000_000, 500_000], 1
    counts: list[int] = []
    download(file, tmp_path / "x.gguf", advance=counts.append)
    assert (tmp_path / "x.gguf").read_bytes() == WEIGHTS
    assert ranges(hub) == ["", "", "bytes=1000000-", "bytes=1500000-"]
    assert sum(counts) == len(WEIGHTS)


def test_a_stopped_download_is_continued_by_the_next_call(hub: FakeHub, file: RemoteFile, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(file, tmp_path / "x.gguf", advance=stop)
    (part,) = tmp_path.iterdir()
    have = part.stat().st_size
    assert 0 < have < len(WEIGHTS)
    counts: list[int] = []
    download(file, tmp_path / "x.gguf", advance=counts.append)
    assert (tmp_path / "x.gguf").read_bytes() == WEIGHTS
    assert (counts[0], ranges(hub)[-1]) == (have, f"bytes={have}-")


def test_a_server_without_ranges_sends_it_again(hub: FakeHub, file: RemoteFile, tmp_path: Path) -> None:
    hub.breaks_after, hub.ranges = [1_000_000], False
    counts: list[int] = []
    download(file, tmp_path / "x.gguf", advance=counts.append)
    assert (tmp_path / "x.gguf").read_bytes() == WEIGHTS
    assert sum(counts) == len(WEIGHTS)


def test_what_came_is_kept_when_it_is_given_up(hub: FakeHub, file: RemoteFile, tmp_path: Path) -> None:
    hub.breaks_after = [1_000_000, *[0] * module.ATTEMPTS]
    with pytest.raises(HubError, match="broke off") as caught:
        download(file, tmp_path / "x.gguf", advance=lambda _n: None)
    assert "goes on from there" in caught.value.hint
    assert (tmp_path / "x.gguf.part").stat().st_size == 1_000_000


@pytest.mark.parametrize("kind", ["sha256", "git"])
def test_other_bytes_are_not_kept(hub: FakeHub, file: RemoteFile, tmp_path: Path, kind: str) -> None:
    hub.wrong_bytes = True
    digest = file.digest if kind == "sha256" else hashlib.sha1(b"blob %d\0" % len(WEIGHTS) + WEIGHTS).hexdigest()
    with pytest.raises(HubError, match="other bytes"):
        download(replace(file, digest=digest, kind=kind), tmp_path / "x.gguf", advance=lambda _n: None)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    hub.wrong_bytes = False
    download(replace(file, digest=digest, kind=kind), tmp_path / "x.gguf", advance=lambda _n: None)  # type: ignore[arg-type]


def test_a_file_that_is_too_long_is_not_kept(hub: FakeHub, file: RemoteFile, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="other bytes"):
        download(replace(file, size=10), tmp_path / "x.gguf", advance=lambda _n: None)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_told(hub: FakeHub, file: RemoteFile, tmp_path: Path) -> None:
    with pytest.raises(HubError) as caught:
        download(replace(file, url=f"{hub.url}/nothing"), tmp_path / "x.gguf", advance=lambda _n: None)
    assert caught.value.got == "HTTP 404"
    with pytest.raises(HubError, match="broke off"):
        download(replace(file, url="http://127.0.0.1:9/x"), tmp_path / "x.gguf", advance=lambda _n: None)


def test_two_processes_do_not_write_one_file(hub: FakeHub, file: RemoteFile, tmp_path: Path) -> None:
    with (tmp_path / "x.gguf.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HubError, match="Another process"):
            download(file, tmp_path / "x.gguf", advance=lambda _n: None)


def test_a_full_disk_is_told(hub: FakeHub, file: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_count: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InsufficientStorage):
        download(file, tmp_path / "x.gguf", advance=full)
