"""An adapter from elsewhere serves only after its GGUF was compared with it here."""

from __future__ import annotations

import pytest

from data.errors import ParityFailed
from service.adapters import import_adapter
from service.export import export_adapter
from service.promotion import promote
from service.settings import Settings
from service.starter import starter_folder
from service.workspace import Workspace


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_imported_adapter_serves_once_its_parity_is_measured(tmp_path):
    source = starter_folder() / "reader"
    files = {name: (source / name).read_bytes() for name in ("adapter_model.safetensors", "adapter_config.json")}
    with Workspace(Settings.load(state_dir=tmp_path / "state")) as workspace:
        brought = import_adapter(workspace, "brought", files)
        with pytest.raises(ParityFailed):
            promote(workspace.store, workspace.model, "brought")
        done = export_adapter(workspace, brought, report=lambda _progress: None)
        assert done["file"].endswith("adapter.gguf")
        live = promote(workspace.store, workspace.model, "brought").live
    assert live.metrics["parity"]["ids_equal"]
    assert live.metrics["parity"]["greedy_agreement"] > 0.9
