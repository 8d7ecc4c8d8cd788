"""The notebook for Colab, from a text in which ``# %%`` begins a cell.

Cells have numbers for ids, so the same text gives the same notebook. Knows nothing of what the cells do.
"""

from __future__ import annotations

import json
import re
from typing import Any

FROM_BUNDLE = ("The wheel in the bundle holds", '!{sys.executable} -m pip install --quiet --no-deps "bundle/@WHEEL@"')
"""What the cell before the installation says, and how it installs: from the bundle itself."""
FROM_REPOSITORY = (
    "The repository has",
    '!{sys.executable} -m pip install --quiet --no-deps "ragtune @ git+https://github.com/YOUR-ORGANISATION/ragtune"',
)
"""The same in the committed notebook, which comes without a bundle's code."""
_CELL = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


def notebook(text: str) -> bytes:
    """Return the notebook (nbformat 4.5) of a text."""
    _, *found = _CELL.split(text)
    cells = [
        _cell(number, kind is not None, body)
        for number, (kind, body) in enumerate(zip(found[::2], found[1::2], strict=True))
    ]
    whole = {
        "cells": cells,
        "metadata": {
            "accelerator": "GPU",
            "colab": {"gpuType": "T4", "provenance": []},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, ensure_ascii=False, indent=1).encode() + b"\n"


def _cell(number: int, is_markdown: bool, body: str) -> dict[str, Any]:
    source = body.strip("\n").splitlines(keepends=True)
    common = {"id": f"cell-{number:02}", "metadata": {}, "source": source}
    if is_markdown:
        return {"cell_type": "markdown", **common}
    return {"cell_type": "code", **common, "execution_count": None, "outputs": []}
