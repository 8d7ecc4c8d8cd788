from __future__ import annotations

import pytest

from data.errors import BaseModelMismatch, InvalidRequest, NoLiveAdapter, ParityFailed, UnknownAdapter
from service.arms import adapter_label
from service.compare.run import choose_arms
from service.promotion import promote, rollback
from tests.service.parts import adapter


def test_the_newest_version_goes_live_and_the_one_before_is_retired(workspace):
    store, model = workspace.store, workspace.model
    for version in (1, 2):
        store.adapters.add(adapter(version=version))
    first = promote(store, model, "house", 1)
    assert (first.live.version, first.before) == (1, None)
    second = promote(store, model, "house")  # the newest, though version 1 is live
    assert (second.live.version, second.before.version) == (2, 1)
    assert [a.stage for a in store.adapters.list()] == ["retired", "live"]
    assert promote(store, model, "house@1").live.version == 1


def test_what_is_compared_is_what_is_promoted(workspace):
    """Trained again while version 1 is live: both commands, given the bare name, mean version 2."""
    store, model = workspace.store, workspace.model
    store.adapters.add(adapter())
    promote(store, model, "house")
    store.adapters.add(adapter(version=2))
    measured = choose_arms(store, model, ("tuned", "combined"), "house") + choose_arms(store, model, ("house",))
    assert {arm.adapter for arm in measured} == {"house@2"}
    assert adapter_label(promote(store, model, "house").live) == "house@2"


def test_two_versions_in_one_request_are_refused(workspace):
    for version in (1, 2):
        workspace.store.adapters.add(adapter(version=version))
    with pytest.raises(InvalidRequest):
        promote(workspace.store, workspace.model, "house@1", 2)
    assert promote(workspace.store, workspace.model, "house@1", 1).live.version == 1


def test_rollback_restores_what_was_live_before(workspace):
    store, model = workspace.store, workspace.model
    for name in ("house", "other"):
        store.adapters.add(adapter(name))
        promote(store, model, name)
    done = rollback(store, model)
    assert (done.live.name, done.before.name) == ("house", "other")
    with pytest.raises(NoLiveAdapter):
        rollback(store, model)


@pytest.mark.parametrize("parity", [None, {"greedy_agreement": 0.5, "kl": 2.0, "passed": False}])
def test_an_adapter_without_parity_does_not_serve(workspace, parity):
    workspace.store.adapters.add(adapter(metrics={"parity": parity} if parity else {}))
    with pytest.raises(ParityFailed):
        promote(workspace.store, workspace.model, "house")
    assert workspace.store.adapters.live(workspace.model.sha256) is None


def test_the_packaged_adapters_were_measured_when_they_were_made(workspace):
    workspace.store.adapters.add(adapter("reader", metrics={}, lineage={"origin": "starter"}))
    assert promote(workspace.store, workspace.model, "reader").live.name == "reader"


def test_an_adapter_for_another_base_model_is_refused(workspace):
    workspace.store.adapters.add(adapter(base="f" * 64))
    with pytest.raises(BaseModelMismatch, match="another base model"):
        promote(workspace.store, workspace.model, "house")


def test_an_adapter_that_does_not_exist_is_refused_with_the_closest_name(workspace):
    workspace.store.adapters.add(adapter())
    with pytest.raises(UnknownAdapter, match="Did you mean house"):
        promote(workspace.store, workspace.model, "hause")
    with pytest.raises(UnknownAdapter):
        promote(workspace.store, workspace.model, "house", 9)
