"""Asks an advisory service about everything that is installed: ``make audit``. It needs network to that service.

What ``ignored.toml`` names is left out until its date; a date that has passed ends this with an error. Status 1 says
that something was found, 2 that nothing was looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

IGNORED = Path(__file__).with_name("ignored.toml")
_WHERE = "import sysconfig; print(sysconfig.get_path('purelib'))"
MOST_SKIPPED = 5
"""Packages that a service may not know: ragtune, its starter and what was built here. More means that it knows none."""
UNREACHED = """\
Nothing was audited: no advisory service was reached that knows what is installed ({skipped} of {all} packages skipped).
It asks pypi.org over HTTPS, which a mirror of packages does not answer for; run it where that is reachable."""


def ignored(listed: str, today: date) -> list[str]:
    """Return the options that leave advisories out.

    Args:
        listed: the text of ``ignored.toml``.
        today: the day on which an advisory's date must not have passed.

    Raises:
        SystemExit: one's date has.
    """
    options: list[str] = []
    for advisory in tomllib.loads(listed)["ignored"]:
        if advisory["until"] < today:
            sys.exit(f"{IGNORED.name}: {advisory['id']} was ignored until {advisory['until']}. Look at it again.")
        options += ["--ignore-vuln", advisory["id"]]
    return options


def looked_at(report: str) -> tuple[list[dict[str, Any]], int]:
    """Return what pip-audit's JSON says of each package it found advisories for or none, and how many it skipped."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):  # a service that is down leaves no JSON
        return [], 0
    known = [package for package in packages if "vulns" in package]
    return known, len(packages) - len(known)


def main() -> None:
    """Audit the environment of the Python that is named; exit as pip-audit does: 1 where something was found."""
    options = ignored(IGNORED.read_text(encoding="utf-8"), date.today())
    site = subprocess.run([sys.argv[1], "-c", _WHERE], check=True, capture_output=True, text=True).stdout.strip()
    command = [sys.executable, "-m", "pip_audit", "--path", site, "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run([*command, *options], check=False, stdout=subprocess.PIPE, text=True)
    known, skipped = looked_at(done.stdout)
    if not known or skipped > MOST_SKIPPED:
        sys.stderr.write(UNREACHED.format(skipped=skipped, all=skipped + len(known)) + "\n")
        sys.exit(2)
    for package in known:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no release"
            sys.stdout.write(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}\n")
    sys.stdout.write(f"{len(known)} packages audited, {skipped} skipped\n")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
