"""Work on a Ray cluster, and the folder that imports ray: everything that is kept stays in this process.

``RayWorkers`` maps functions over items, by tasks; ``RayActors`` keeps something on each node (an engine, say) that
functions are applied with. What is sent is a value, so what a lost node had is done again by another. Knows nothing
of what the work is.
"""

from retrieval.ray.actors import Do, RayActors
from retrieval.ray.connection import Node, RayCluster
from retrieval.ray.workers import RayWorkers

__all__ = ["Do", "Node", "RayActors", "RayCluster", "RayWorkers"]
