from dataclasses import replace

import pytest

from data.errors import Conflict, InvalidRequest, NoLiveAdapter, UnknownAdapter, UnknownModel
from data.records import Adapter, Model


def adapter(name="style", version=1, base="base-a", **changes):
    made = Adapter(
        name, version, "starter", base, {"r": 8}, "rows", "full", {"adapter.gguf": "ff"}, {"loss": 0.5}, "candidate"
    )
    return replace(made, **changes)


def live(store, base="base-a"):
    found = store.adapters.live(base)
    return None if found is None else (found.name, found.version)


def test_adapter_comes_back_as_it_was_added(store):
    added = adapter(lineage={"pairs": ["p1"]}, attention="blockwise")
    store.adapters.add(added)
    assert store.adapters.get("style", 1) == added
    assert store.adapters.list() == [added]


def test_promotion_retires_the_live_one_of_the_same_base_only(store):
    for added in (adapter(), adapter(version=2), adapter("other", base="base-b")):
        store.adapters.add(added)
    assert store.adapters.promote("style", 1).stage == "live"
    store.adapters.promote("other")
    assert store.adapters.promote("style", 2).stage == "live"
    assert [(found.name, found.version, found.stage) for found in store.adapters.list()] == [
        ("other", 1, "live"),
        ("style", 1, "retired"),
        ("style", 2, "live"),
    ]
    assert (live(store), live(store, "base-b"), live(store, "base-c")) == (("style", 2), ("other", 1), None)


def test_rolling_back_twice_goes_back_two_promotions(store):
    for version in (1, 2, 3):
        store.adapters.add(adapter(version=version))
        store.adapters.promote("style", version)
    assert store.adapters.rollback("base-a").version == 2
    assert store.adapters.rollback("base-a").version == 1
    with pytest.raises(NoLiveAdapter):
        store.adapters.rollback("base-a")
    assert live(store) == ("style", 1)
    assert [found.stage for found in store.adapters.list("style")] == ["live", "retired", "retired"]


def test_promotion_after_a_rollback_comes_back_to_what_was_live(store):
    for version in (1, 2, 3):
        store.adapters.add(adapter(version=version))
    store.adapters.promote("style", 1)
    store.adapters.promote("style", 2)
    store.adapters.rollback("base-a")
    store.adapters.promote("style", 3)
    assert store.adapters.rollback("base-a").version == 1


def test_promoting_the_live_one_again_changes_nothing(store):
    for version in (1, 2):
        store.adapters.add(adapter(version=version))
        store.adapters.promote("style", version)
    store.adapters.promote("style", 2)
    assert store.adapters.rollback("base-a").version == 1


def test_rolling_back_skips_a_deleted_adapter(store):
    for name in ("first", "second", "third"):
        store.adapters.add(adapter(name))
        store.adapters.promote(name)
    store.adapters.delete("second")
    assert store.adapters.rollback("base-a").name == "first"


def test_rolling_back_never_restores_the_adapter_that_is_rolled_back(store):
    for name in ("first", "second"):
        store.adapters.add(adapter(name))
    for name in ("first", "second", "first"):
        store.adapters.promote(name)
    store.adapters.delete("second")
    with pytest.raises(NoLiveAdapter):
        store.adapters.rollback("base-a")
    assert live(store) == ("first", 1)


def test_deleting_the_live_adapter_leaves_none(store):
    store.adapters.add(adapter())
    store.adapters.promote("style")
    store.adapters.delete("style")
    assert live(store) is None
    with pytest.raises(NoLiveAdapter):
        store.adapters.rollback("base-a")


def test_without_a_version_the_live_one_is_meant_else_the_newest(store):
    store.adapters.add(adapter())
    store.adapters.add(adapter(version=2))
    assert store.adapters.get("style").version == 2
    store.adapters.promote("style", 1)
    assert store.adapters.get("style").version == 1
    # Promoting by name means the newest: that is the one just trained.
    assert store.adapters.promote("style").version == 2


def test_versions_are_not_reused(store):
    assert store.adapters.next_version("style") == 1
    store.adapters.add(adapter())
    store.adapters.add(adapter(version=2))
    store.adapters.delete("style", 2)
    assert [found.version for found in store.adapters.list("style")] == [1]
    assert store.adapters.next_version("style") == 3


def test_history_tells_what_happened(store):
    for version in (1, 2):
        store.adapters.add(adapter(version=version))
        store.adapters.promote("style", version)
    store.adapters.rollback("base-a")
    store.adapters.delete("style", 2)
    assert [(event["version"], event["event"]) for event in store.adapters.history("style")] == [
        (1, "added"),
        (1, "promoted"),
        (2, "added"),
        (1, "retired"),
        (2, "promoted"),
        (2, "rolled back"),
        (1, "restored"),
        (2, "deleted"),
    ]


def test_update_replaces_files_and_metrics(store):
    store.adapters.add(adapter())
    changed = store.adapters.update("style", 1, metrics={"parity": {"kl": 0.001}}, files={"a": "b"})
    assert changed == adapter(metrics={"parity": {"kl": 0.001}}, files={"a": "b"})
    assert store.adapters.get("style") == changed


def test_what_cannot_be_added_is_refused(store):
    store.adapters.add(adapter())
    for bad in (adapter(), adapter(version=2, stage="live")):
        with pytest.raises(Conflict):
            store.adapters.add(bad)
    with pytest.raises(InvalidRequest):
        store.adapters.add(adapter("../style"))


def test_unknown_adapters_are_named(store):
    store.adapters.add(adapter())
    for call in (store.adapters.get, store.adapters.promote, store.adapters.delete, store.adapters.update):
        with pytest.raises(UnknownAdapter, match="style 9"):
            call("style", 9)
    for call in (store.adapters.get, store.adapters.promote, store.adapters.delete):
        with pytest.raises(UnknownAdapter, match="nothing"):
            call("nothing")


def model(name="starter", **changes):
    return replace(Model(name, "starter", "/m.gguf", "/m.gguf", "ab", "llama", {"n_ctx": 2048}), **changes)


def test_models_and_their_default(store):
    assert store.models.default() is None
    store.models.add(model(), default=True)
    store.models.add(model("big"))
    assert store.models.default() == model()
    store.models.add(model(gguf="/moved.gguf"))
    assert store.models.default() == model(gguf="/moved.gguf")
    store.models.add(model("big"), default=True)
    assert store.models.default() == model("big")
    assert store.models.list() == [model("big"), model(gguf="/moved.gguf")]
    store.models.delete("big")
    assert store.models.default() is None


def test_unknown_models_are_named(store):
    for call in (store.models.get, store.models.delete):
        with pytest.raises(UnknownModel, match="nothing"):
            call("nothing")
    with pytest.raises(InvalidRequest):
        store.models.add(model("a/b"))
