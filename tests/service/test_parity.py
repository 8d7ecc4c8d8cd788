"""An adapter from elsewhere serves only after its GGUF was compared with it here."""

from __future__ import annotations

import shutil

import pytest

from service.jobs import run_job, submit
from service.promotion import promote
from service.settings import Settings
from service.starter import starter_folder
from service.workspace import Workspace


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_imported_adapter_is_measured_as_it_is_imported_and_serves(tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(starter_folder() / "reader" / name, folder / name)
    with Workspace(Settings.load(state_dir=tmp_path / "state")) as workspace:
        job = submit(workspace.store, "import_adapter", {"name": "brought", "folder": str(folder)})
        done = run_job(workspace, job.id)
        assert done.status == "succeeded", done.error
        live = promote(workspace.store, workspace.model, "brought").live
    assert live.metrics["parity"]["ids_equal"]
    assert live.metrics["parity"]["greedy_agreement"] > 0.9
