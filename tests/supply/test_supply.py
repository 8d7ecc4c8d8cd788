"""What is installed: its licences, its hashes, and that advisories are left out for a reason and for a time."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import date
from pathlib import Path

import pytest

from tests.supply.audit import ignored, looked_at
from tests.supply.licences import permitted, plain, report
from tests.supply.lock import OWN_INDEX

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def locked():
    """Return the hashes of each (name, version) of requirements.lock."""
    found, pin = {}, None
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if named := re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", line):
            pin = (plain(named[1]), named[2])
            found[pin] = []
        found.get(pin, []).extend(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line))
    return found


def test_what_ships_has_a_licence_that_is_allowed():
    rows = report()
    assert len(rows) > 100
    assert [row for row in rows if not permitted(row[2])] == []


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True), ("AGPL-3.0-only", False), ("GPL-2.0-only", False), ("LGPL-2.1-or-later", False), ("", False),
        ("MIT OR GPL-2.0-only", True), ("MIT AND GPL-2.0-only", False), ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("MIT AND (GPL-2.0-only OR AGPL-3.0-only)", False), ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-only WITH Classpath-exception-2.0", False), ("MIT GPL-2.0-only", False), ("(MIT", False),
        ("Proprietary", False),
    ],
)  # fmt: skip
def test_an_expression_is_met_with_allowed_licences_alone(expression, allowed):
    assert permitted(expression) is allowed


def test_every_pin_has_a_hash_of_its_version():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    wanted = {(plain(name), version) for name, version in pins.items() if not OWN_INDEX.fullmatch(plain(name))}
    found = locked()
    assert wanted - set(found) == set(), "make it again: make lock"
    assert [pin for pin, hashes in found.items() if not hashes] == []
    assert [pin for pin in found if OWN_INDEX.fullmatch(pin[0])] == []


def test_the_packaged_model_is_pinned_by_hash():
    lines = (ROOT / "starter-models.txt").read_text().split("\n")
    assert all(re.search(r"==\S+ .*--hash=sha256:[0-9a-f]{64}", line) for line in lines if line.strip())


def test_what_is_ignored_has_a_reason_and_an_end():
    """An advisory is looked at again after its date: this test fails then."""
    for advisory in tomllib.loads((HERE / "ignored.toml").read_text(encoding="utf-8"))["ignored"]:
        assert advisory["id"]
        assert len(advisory["reason"]) > 30
        assert advisory["until"] >= date.today(), f"look at {advisory['id']} again"


LISTED = '[[ignored]]\nid = "PYSEC-1"\nreason = "x"\nuntil = 2026-03-31\n'


def test_an_advisory_is_ignored_until_its_day_and_not_after():
    assert ignored(LISTED, date(2026, 3, 31)) == ["--ignore-vuln", "PYSEC-1"]
    with pytest.raises(SystemExit, match=r"PYSEC-1 was ignored until 2026-03-31"):
        ignored(LISTED, date(2026, 4, 1))


@pytest.mark.parametrize("report", ["", "Could not connect", "[]", "{}", '{"dependencies": []}'])
def test_an_audit_that_looked_at_nothing_is_not_taken_for_one(report):
    assert looked_at(report) == ([], 0)


def test_what_a_service_does_not_know_is_not_taken_for_safe():
    a, b = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found on PyPI"}
    assert looked_at(json.dumps({"dependencies": [a, b, b]})) == ([a], 2)
