"""The files under deploy/ and SECURITY.md name what exists."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics
from service.telemetry import _COUNTERS, _GAUGES, _KV_COUNTERS

ROOT = Path(__file__).parents[2]


def test_the_dashboard_shows_series_that_the_service_has(workspace):
    class Busy:
        def statistics(self):
            names = [name for name, *_ in (*_GAUGES, *_COUNTERS)]
            kv = {name: 1 for name, *_ in _KV_COUNTERS} | {"memory_hits": 1, "memory_bytes": 1}
            return dict.fromkeys(names, 1) | {"kv": kv}

    metrics = Metrics(Busy)
    metrics.requests.labels("GET", "/", "200").inc()
    metrics.seconds.labels("GET", "/").observe(1)
    metrics.answers.labels("rag", "false").inc()
    families = text_string_to_metric_families(metrics.render(workspace).decode())
    known = {sample.name for family in families for sample in family.samples}
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    asked = {name for p in dashboard["panels"] for t in p["targets"] for name in re.findall(r"ragtune_\w+", t["expr"])}
    assert len(asked) > 15
    assert asked <= known, asked - known


def test_the_unit_starts_the_command_that_exists_and_is_locked_down():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(ROOT / "deploy" / "ragtune.service")
    service = unit["Service"]
    assert service["ExecStart"].endswith("/ragtune serve")
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["DynamicUser"]) == ("yes", "strict", "yes")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path):
    """With a program that exists on this machine; a key that systemd does not know is a line of its own."""
    text = (ROOT / "deploy" / "ragtune.service").read_text()
    path = tmp_path / "ragtune.service"
    path.write_text(text.replace("/opt/ragtune/bin/ragtune serve", f"{sys.executable} serve"))
    assert verified(path) == (0, "")
    path.write_text(path.read_text().replace("ProtectHome", "ProtectHomes"))
    assert "ProtectHomes" in verified(path)[1]


def verified(unit):
    found = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    return found.returncode, found.stderr


def test_security_names_tests_that_exist():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+)`", text)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
