"""Asks an advisory service about everything that is installed: ``make audit``. It needs network to that service.

What ``ignored.toml`` names is left out until its date; a date that has passed ends this with an error.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

IGNORED = Path(__file__).with_name("ignored.toml")
_WHERE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def main() -> None:
    """Audit the environment of the Python that is named; exit as pip-audit does: 1 where something was found."""
    site = subprocess.run([sys.argv[1], "-c", _WHERE], check=True, capture_output=True, text=True).stdout.strip()
    command = [sys.executable, "-m", "pip_audit", "--path", site, "--progress-spinner", "off"]
    for advisory in tomllib.loads(IGNORED.read_text(encoding="utf-8"))["ignored"]:
        if advisory["until"] < date.today():
            sys.exit(f"{IGNORED.name}: {advisory['id']} was ignored until {advisory['until']}. Look at it again.")
        command += ["--ignore-vuln", advisory["id"]]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
