"""Ingest a folder and kill this very process at the n-th report: ``crash.py STATE FOLDER N``."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.records import Progress
from data.state import StateDirectory
from data.store import Store
from retrieval.ingest import Ingestor
from tests.retrieval.hashing import HashingEmbedder, Settings


class Killer:
    """Counts reports and ends the process as a power cut would."""

    def __init__(self, reports: int) -> None:
        self.reports = reports

    def __call__(self, _: Progress) -> None:
        self.reports -= 1
        if self.reports == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    state = StateDirectory(Path(sys.argv[1]))
    with Store.open(state.db) as store:
        ingestor = Ingestor(store, state, HashingEmbedder(), Settings())
        ingestor.ingest("default", [Path(sys.argv[2])], sync=True, report=Killer(int(sys.argv[3])))
