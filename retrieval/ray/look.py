"""Print what a Ray cluster lends, as JSON: a process of its own, because Ray can take minutes to find nobody there.

``python -m retrieval.ray.look ADDRESS`` prints ``{"nodes": [{"host", "processors", "gpus"}], "version"}``, or
``{"error": {"detail", "hint"}}``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray

from data.errors import RagtuneError
from retrieval.ray.connection import RayCluster


def look(address: str) -> dict[str, Any]:
    """Return what the cluster at ``address`` lends.

    Raises:
        As ``RayCluster`` and its ``connect``.
    """
    cluster = RayCluster(address)
    cluster.connect()
    nodes = [{"host": each.host, "processors": each.processors, "gpus": each.gpus} for each in cluster.nodes()]
    cluster.close()
    return {"nodes": nodes, "version": ray.__version__}


def main(address: str) -> None:
    """Print what ``look`` returns, or why not."""
    try:
        found = look(address)
    except RagtuneError as error:
        found = {"error": {"detail": error.detail, "hint": error.hint}}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
