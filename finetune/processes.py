"""How many processes train together, and which one this is.

Knows nothing of what they do; accelerate knows who started them.
"""

from __future__ import annotations

import accelerate
from torch import distributed


def join(*, cpu: bool) -> None:
    """Meet the other processes of this training, where a launcher started several."""
    accelerate.PartialState(cpu=cpu)


def world_size() -> int:
    """Return the number of processes that have met."""
    return distributed.get_world_size() if _met() else 1


def is_first() -> bool:
    """Tell whether this process is the one that writes files and reports."""
    return distributed.get_rank() == 0 if _met() else True


def _met() -> bool:
    return distributed.is_available() and distributed.is_initialized()
