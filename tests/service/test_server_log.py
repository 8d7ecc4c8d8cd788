from __future__ import annotations

import logging
from pathlib import Path

import httpx2
import pytest

from data.errors import InvalidRequest
from service.server_log import server_log
from service.settings import Settings
from tests.service.conftest import open_client

QUESTION = "When was the lighthouse of Orrin built?"


def test_the_log_tells_what_the_client_was_not_told(indexed, generator, tmp_path, capsys):
    generator.error = RuntimeError("secret of /home/ada")
    path = tmp_path / "server.log"
    with server_log(path, "INFO"), open_client(indexed, raise_server_exceptions=False) as client:
        response = client.post("/v1/answers", json={"question": QUESTION})
    logged = path.read_text(encoding="utf-8")
    assert f"ERROR service.request_ids [{response.json()['request_id']}]" in logged
    assert "Traceback" in logged
    assert "RuntimeError: secret of /home/ada" in logged
    assert "secret" in capsys.readouterr().err, "a supervisor that reads standard error has it too"


def test_no_more_is_logged_than_was_asked_for(tmp_path, capsys):
    path = tmp_path / "server.log"
    with server_log(path, "INFO"):
        logging.getLogger("ragtune").info("once")
        logging.getLogger("ragtune").debug("never")
    logging.getLogger("ragtune").error("after")
    assert "once" in path.read_text(encoding="utf-8")
    assert "never" not in path.read_text(encoding="utf-8")
    assert "after" not in path.read_text(encoding="utf-8")
    assert "once" not in capsys.readouterr().err


def test_no_address_that_is_asked_is_logged_and_the_file_is_private(tmp_path):
    """A webhook's path and query are its secret."""
    path = tmp_path / "server.log"
    with (
        server_log(path, "DEBUG"),
        httpx2.Client(transport=httpx2.MockTransport(lambda _request: httpx2.Response(204))) as client,
    ):
        client.post("https://hooks.example/T000/SECRET?token=SECRET")
        logging.getLogger("ragtune").info("sent")
    assert "sent" in path.read_text(encoding="utf-8")
    assert "SECRET" not in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_level_is_named_in_any_case_and_checked():
    assert Settings.load(log_level="info").log_level == "INFO"
    with pytest.raises(InvalidRequest, match="log_level"):
        Settings.load(log_level="loud")


def test_a_full_disk_is_said_once_and_not_with_every_line(capsys):
    with server_log(Path("/dev/full"), "INFO"):
        for line in range(300):
            logging.getLogger("ragtune").info("line %s %s", line, "x" * 200)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.count("No space left on device") == 1
