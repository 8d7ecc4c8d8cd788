from __future__ import annotations

import pytest

from data.errors import InvalidRequest
from service.settings import Settings


def test_an_argument_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("RAGTUNE_PORT", "9001")
    assert Settings.load().port == 9001
    assert Settings.load(port=9002).port == 9002


def test_a_bad_value_names_its_variable(monkeypatch):
    monkeypatch.setenv("RAGTUNE_PORT", "70000")
    with pytest.raises(InvalidRequest, match="RAGTUNE_PORT"):
        Settings.load()
    monkeypatch.delenv("RAGTUNE_PORT")
    with pytest.raises(InvalidRequest, match="prot"):
        Settings.load(prot=1)


def test_a_child_reads_the_same_settings(monkeypatch, tmp_path):
    monkeypatch.delenv("RAGTUNE_MODEL", raising=False)
    parent = Settings.load(state_dir=tmp_path, api_key="secret", allowed_hosts=("a.lan", "b.lan"), chunk_size=99)
    for name, value in parent.environment().items():
        monkeypatch.setenv(name, value)
    child = Settings.load()
    assert child.model_dump() == parent.model_dump()
    assert "model" not in child.model_fields_set, "what nobody chose may still be chosen by the store"


def test_the_key_is_not_shown():
    assert "secret" not in repr(Settings.load(api_key="secret"))


def test_the_demo_can_be_told_not_to_serve(monkeypatch):
    assert Settings.load().demo_serve
    monkeypatch.setenv("DEMO_SERVE", "0")
    assert not Settings.load().demo_serve
    assert Settings.load(demo_serve=True).demo_serve


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.1", False)]
)
def test_loopback(host, loopback):
    assert Settings.load(host=host).loopback is loopback


def test_allowed_hosts_are_comma_separated_in_the_environment(monkeypatch):
    monkeypatch.setenv("RAGTUNE_ALLOWED_HOSTS", "localhost, 127.0.0.1,RAG.lan")
    assert Settings.load().allowed_hosts == ("localhost", "127.0.0.1", "rag.lan")
