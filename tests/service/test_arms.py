from __future__ import annotations

import pytest

from data.errors import InvalidRequest, NoLiveAdapter, UnknownAdapter, UnknownMode
from service.arms import Arm, adapter_label, find_adapter, resolve_arm, resolve_mode, serving_adapter
from tests.service.parts import MODEL, adapter


@pytest.fixture
def store(workspace):
    return workspace.store


def test_the_four_modes_are_passages_times_adapter(store):
    store.adapters.add(adapter())
    store.adapters.promote("house", 1)
    arms = {mode: resolve_mode(mode, None, store, MODEL) for mode in ("base", "rag", "tuned", "combined")}
    assert arms == {
        "base": Arm("base", False),
        "rag": Arm("rag", True),
        "tuned": Arm("tuned", False, "house@1"),
        "combined": Arm("combined", True, "house@1"),
    }
    assert [arm.mode for arm in arms.values()] == list(arms)


def test_auto_is_rag_without_a_live_adapter_and_combined_with_one(store):
    assert resolve_mode("auto", None, store, MODEL).name == "rag"
    store.adapters.add(adapter())
    assert resolve_mode("auto", None, store, MODEL).name == "rag", "a candidate does not serve"
    store.adapters.promote("house", 1)
    assert resolve_mode("auto", None, store, MODEL).name == "combined"


def test_auto_follows_the_latest_evaluation(store):
    store.adapters.add(adapter())
    store.adapters.promote("house", 1)
    arms = {"combined": {"adapter": "house@1"}}
    store.evaluations.add("e1", {"recommendation": "rag", "arms": arms}, "default")
    assert resolve_mode("auto", None, store, MODEL).name == "rag"
    store.evaluations.add("e2", {"recommendation": "tuned", "arms": arms}, "default")
    assert resolve_mode("auto", None, store, MODEL).name == "tuned"


@pytest.mark.parametrize("arms", [{"rag": {}}, {"combined": {"adapter": "house@2"}}])
def test_an_evaluation_of_something_else_decides_nothing(store, arms):
    store.adapters.add(adapter())
    store.adapters.promote("house", 1)
    store.evaluations.add("e1", {"recommendation": "rag", "arms": arms}, "default")
    assert resolve_mode("auto", None, store, MODEL).name == "combined"


def test_a_recommended_arm_that_cannot_run_is_not_chosen(store):
    store.evaluations.add("e1", {"recommendation": "combined"}, "default")
    assert resolve_mode("auto", None, store, MODEL).name == "rag"


def test_a_live_adapter_of_another_base_does_not_count(store):
    store.adapters.add(adapter(base="f" * 64))
    store.adapters.promote("house", 1)
    assert resolve_mode("auto", None, store, MODEL).name == "rag"
    with pytest.raises(NoLiveAdapter):
        resolve_mode("tuned", None, store, MODEL)


def test_a_named_version_is_taken(store):
    store.adapters.add(adapter())
    store.adapters.add(adapter(version=2))
    assert resolve_mode("combined", "house@1", store, MODEL).adapter == "house@1"
    assert resolve_mode("auto", "house", store, MODEL) == Arm("combined", True, "house@2")


def test_a_bare_name_is_the_live_version_for_answering_and_the_newest_for_everything_else(store):
    for version in (1, 2):
        store.adapters.add(adapter(version=version))
    assert adapter_label(serving_adapter(store, "house")) == "house@2", "none is live: the newest"
    store.adapters.promote("house", 1)
    assert adapter_label(serving_adapter(store, "house")) == "house@1"
    assert adapter_label(find_adapter(store, "house")) == "house@2"
    for find in (serving_adapter, find_adapter):
        assert [adapter_label(find(store, f"house@{version}")) for version in (1, 2)] == ["house@1", "house@2"]
        with pytest.raises(UnknownAdapter, match="Did you mean house"):
            find(store, "huose")
    assert resolve_mode("combined", "house", store, MODEL).adapter == "house@1"
    assert resolve_mode("combined", "house", store, MODEL, named=find_adapter).adapter == "house@2"
    assert resolve_arm("house", store, MODEL).adapter == "house@1"
    assert resolve_arm("house", store, MODEL, named=find_adapter).adapter == "house@2"
    assert resolve_mode("combined", None, store, MODEL, named=find_adapter).adapter == "house@1", (
        "no name: what is live"
    )


@pytest.mark.parametrize(
    ("mode", "name", "kind"),
    [
        ("combnied", None, UnknownMode),
        ("rag", "house", InvalidRequest),
        ("combined", "huose", UnknownAdapter),
        ("combined", "house@9", UnknownAdapter),
        ("combined", "house@x", UnknownAdapter),
    ],
)
def test_what_does_not_exist_is_named(store, mode, name, kind):
    store.adapters.add(adapter())
    with pytest.raises(kind) as caught:
        resolve_mode(mode, name, store, MODEL)
    assert (name or mode).partition("@")[0] in str(caught.value.got)


def test_typing_errors_get_a_suggestion(store):
    store.adapters.add(adapter())
    with pytest.raises(UnknownMode, match="Did you mean combined"):
        resolve_mode("combnied", None, store, MODEL)
    with pytest.raises(UnknownAdapter, match="Did you mean house"):
        resolve_mode("combined", "huose", store, MODEL)


def test_an_arm_is_a_mode_an_adapter_or_the_model(store):
    store.adapters.add(adapter())
    assert resolve_arm("rag", store, MODEL) == Arm("rag", True)
    assert resolve_arm("house", store, MODEL) == Arm("house", True, "house@1")
    assert resolve_arm("scripted", store, MODEL) == Arm("scripted", False)
    with pytest.raises(UnknownMode, match="Did you mean house"):
        resolve_arm("hause", store, MODEL)
