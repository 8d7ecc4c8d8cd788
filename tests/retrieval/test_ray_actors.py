"""What is kept on each node of a Ray cluster: used by all, missed when it is gone, refused by name."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from data.errors import ClusterUnavailable, EngineUnavailable, InsufficientStorage, InvalidModel
from retrieval.ray import RayActors, RayCluster
from retrieval.ray.connection import _reason

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Make:
    """Makes a list to remember in; ``refuse`` is raised instead."""

    refuse: Exception | None = None

    def __call__(self, processors):
        if self.refuse is not None:
            raise self.refuse
        return [processors]


def remember(held, item):
    held.append(item)


def recall(held, _):
    return os.getpid(), tuple(held)


def slowly(held, seconds):
    time.sleep(seconds)
    return os.getpid()


def held_up(held, folder):
    """Say in a folder that it began; end when it is told so there."""
    (Path(folder) / str(os.getpid())).touch()
    until((Path(folder) / "go").exists)
    return os.getpid()


def until(true):
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def living(processes):
    """Return those that still run."""
    return {each for each in processes if state_of(each) not in {"gone", "Z"}}


def state_of(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


@dataclass(frozen=True)
class Fail:
    error: Exception

    def __call__(self, held, item):
        raise self.error


@pytest.fixture
def cluster(ray_cluster):
    opened = RayCluster(ray_cluster.address)
    yield opened
    opened.close()


def ask_all(actors, **about):
    """Call until two nodes have answered; return the processes on them."""
    found = set()
    deadline = time.monotonic() + 90
    with ThreadPoolExecutor(4) as pool:
        while len(found) < 2 and time.monotonic() < deadline:
            found |= {each.result() for each in [pool.submit(actors.call, slowly, 0.5, **about) for _ in range(4)]}
    assert len(found) == 2
    return found


def test_every_node_works_and_is_given_what_calls_need_once(cluster):
    actors = RayActors(cluster, Make(), together=2)
    assert actors.places() == 4
    given = []

    def supply(do):
        given.append(do(recall, None)[0])
        do(remember, "adapter")

    where = ask_all(actors, needs={"adapter": supply})
    assert sorted(given) == sorted(where)
    assert {actors.call(recall, None, near=bytes([n]))[1] for n in range(4)} == {(1, "adapter")}
    same = {actors.call(recall, None, near=b"the same")[0] for _ in range(6)}
    assert len(same) == 1
    actors.close()


def test_what_a_killed_node_had_is_done_by_another_and_a_new_node_is_used(cluster, ray_cluster, tmp_path):
    actors = RayActors(cluster, Make(), together=1)
    before = ask_all(actors)
    with ThreadPoolExecutor(2) as pool:
        waited = [pool.submit(actors.call, held_up, str(tmp_path)) for _ in range(4)]
        until(lambda: {int(path.name) for path in tmp_path.iterdir()} == before)
        ray_cluster.kill_one()
        until(lambda: len(living(before)) == 1)
        (tmp_path / "go").touch()
        assert {each.result() for each in waited} == living(before)
    ray_cluster.complete()
    assert len(ask_all(actors) & before) == 1
    actors.close()


def test_what_a_function_raises_is_raised_here(cluster):
    actors = RayActors(cluster, Make(), together=1)
    with pytest.raises(InvalidModel, match="too small") as raised:
        actors.call(Fail(InvalidModel("It is too small.", got=3, hint="Take another.")), None)
    assert (raised.value.got, raised.value.hint) == (3, "Take another.")
    assert actors.call(slowly, 0)
    actors.close()


def test_a_node_that_refuses_is_named(cluster):
    actors = RayActors(cluster, Make(EngineUnavailable("Another version.", hint="Install this one.")), together=1)
    with pytest.raises(EngineUnavailable, match="Another version") as raised:
        actors.call(slowly, 0)
    assert socket.gethostname() in raised.value.hint
    needing = RayActors(cluster, Make(), together=1)

    def supply(do):
        do(Fail(InvalidModel("The file is damaged.")), None)

    with pytest.raises(InvalidModel, match="damaged") as raised:
        needing.call(slowly, 0, needs={"model": supply})
    assert socket.gethostname() in raised.value.hint
    needing.close()


def test_nodes_without_room_are_done_without_until_none_is_left(cluster, caplog):
    actors = RayActors(cluster, Make(), together=1)
    given = []

    def once(do):
        given.append(do(recall, None)[0])
        if len(given) == 1:
            do(Fail(InsufficientStorage("The disk is full.")), None)

    assert actors.call(recall, None, needs={"model": once})[0] == given[1]
    assert len(set(given)) == 2
    assert "The disk is full" in caplog.text
    actors.close()
    full = RayActors(cluster, Make(InsufficientStorage("The disk is full.")), together=1)
    with pytest.raises(ClusterUnavailable, match="The disk is full"):
        full.call(slowly, 0)


def test_a_node_that_does_not_know_what_it_is_sent_is_named(cluster, monkeypatch):
    """As one without ragtune, or with an older one: here, of a module that only this process has."""
    module = ModuleType("only_here")
    exec("class Make:\n    def __call__(self, processors):\n        return []\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(ClusterUnavailable, match=socket.gethostname()) as raised:
        RayActors(cluster, module.Make(), together=1).call(slowly, 0)
    assert "only_here" in str(raised.value.got)
    assert "same ragtune" in str(raised.value.wanted)


def test_leaving_the_cluster_ends_the_wait(cluster):
    actors = RayActors(cluster, Make(), together=1)
    actors.call(slowly, 0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(actors.call, slowly, 3600)
        time.sleep(1)
        threading.Thread(target=cluster.close).start()
        with pytest.raises(ClusterUnavailable, match="left"):
            waiting.result(30)


def test_versions_that_differ_are_both_told():
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": "2.1.0", "python_version": "3.8.1"}, "127.0.0.1")
    told = _reason(raised.value)
    assert "2.1.0" in told
    assert ".".join(map(str, sys.version_info[:3])) in told
