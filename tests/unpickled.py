"""A pytest plugin: ``-p tests.unpickled`` writes each class that is unpickled, and by whom, into RAGTUNE_UNPICKLED.

Under the name ``sitecustomize`` on PYTHONPATH it does so in every Python that is started from there, too, and once in
each writes ``started`` with what it was started as.

Python reports ``pickle.find_class`` to audit hooks whenever an unpickler looks a name up: that is the moment at which
bytes choose what is called.
"""

from __future__ import annotations

import os
import sys
import traceback

_OWN = ("/pickle.py", "/unpickled.py", "/sitecustomize.py")


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        stack = [frame for frame in traceback.extract_stack() if not frame.filename.endswith(_OWN)]
        callers = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in stack[-1:-6:-1])
        line = f"{arguments[0]}.{arguments[1]}\t{callers}\n"
        _write(line)


def _write(line: str) -> None:
    with open(os.environ["RAGTUNE_UNPICKLED"], "a", encoding="utf-8") as found:  # noqa: PTH123
        found.write(line)


sys.addaudithook(_watch)
if __name__ == "sitecustomize":
    _write(f"started\t{' '.join(sys.orig_argv[1:3])}\n")
