"""How many processes train together, and which one this is: what accelerate's launcher says in the environment.

Knows nothing of what they do.
"""

from __future__ import annotations

import os


def world_size() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tell whether this process is the one that writes files and reports."""
    return os.environ.get("RANK", "0") == "0"
