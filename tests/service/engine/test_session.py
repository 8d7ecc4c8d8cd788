"""One life of the engine's process: what its silence means."""

from __future__ import annotations

import os
import signal
import time

import pytest

from data import errors
from service.engine import session
from service.engine.session import Session

pytestmark = pytest.mark.slow


def test_a_child_that_is_slow_to_start_is_not_taken_for_a_hung_one(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(session, "PING_EVERY_S", 0.05)
    monkeypatch.setattr(session, "SILENCE_S", 0.1)
    started = Session()
    try:
        os.kill(started.child.pid, signal.SIGSTOP)  # as a machine that has no time for it holds it up
        time.sleep(1.0)
        monkeypatch.setattr(session, "SILENCE_S", 300.0)
        os.kill(started.child.pid, signal.SIGCONT)
        started.submit(1, {"op": "inspect", "gguf": str(tmp_path / "none.gguf")}, 1)
        with pytest.raises(errors.InvalidModel):
            started.next(1, 300)
    finally:
        started.child.close()
