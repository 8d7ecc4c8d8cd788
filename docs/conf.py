"""How Sphinx builds the documentation: ``make docs``."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import reference  # noqa: E402  (it is beside this file, which Sphinx does not put on the path)

project = "ragtune"
author = "the ragtune authors"
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "ragtune"
exclude_patterns = ["_build", "README.md"]


def setup(_app: object) -> None:
    """Write the reference pages before anything is read."""
    reference.write()
