"""A Ray cluster of several nodes on this machine: each is a process of its own, which a test can kill."""

from __future__ import annotations

from typing import Any

import pytest

_MEMORY = 100 * 2**20
_CONFIG = {"health_check_period_ms": 1000, "health_check_timeout_ms": 3000, "health_check_failure_threshold": 3}
"""A node that is killed is missed after some seconds instead of half a minute."""


class LocalCluster:
    """A head that works on nothing, and two nodes of one processor each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": _MEMORY, "include_dashboard": False, "_system_config": _CONFIG}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Any] = []
        self.complete()

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return str(self._cluster.address)

    def complete(self) -> None:
        """Start nodes until there are two."""
        while len(self.nodes) < 2:
            self.nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=_MEMORY))

    def kill_one(self) -> None:
        """Kill a node with all it is at."""
        self._cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def ray_cluster():
    """Two nodes, shared by the tests of a run: starting them takes seconds."""
    pytest.importorskip("ray", reason="no Ray: pip install ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # it reports to its makers otherwise
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_gcs_server_port_wait_time_s", "180")  # its own is too short where the cores have other work
        cluster = LocalCluster()
        yield cluster
        cluster.close()


@pytest.fixture
def ray_workers(ray_cluster):
    """Connected to at their first work."""
    from retrieval.ray import RayWorkers

    workers = RayWorkers(ray_cluster.address)
    yield workers
    workers.close()
