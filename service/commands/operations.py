"""Commands that run the whole: serve, demo, doctor."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer

from service.commands.session import FAILED, Json, print_json, print_rows, session, stderr

_MARKS = {"ok": "ok", "warning": "note", "failed": "FAILED"}


def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="8000 by default; 0 for any free one.")] = None,
) -> None:
    """Serve the HTTP API until Ctrl-C."""
    from service.serve import serve as serve_until_stopped

    found = session(ctx)
    settings = found.settings(host=host, port=port)
    with found.factory(settings) as workspace, suppress(KeyboardInterrupt):  # Ctrl-C is how serving ends
        serve_until_stopped(workspace, on_ready=lambda url: stderr().print(f"Serving at {url}", markup=False))


def demo(
    ctx: typer.Context,
    serving: Annotated[
        bool | None, typer.Option("--serve/--no-serve", help="Serve at the end; DEMO_SERVE=0 also says no.")
    ] = None,
) -> None:
    """Run the whole loop on the sample documents, then serve it. A second run reuses what is finished."""
    from service.demo import run_demo

    found = session(ctx)
    run_demo(found.settings(demo_serve=serving), found.factory)


def doctor(
    ctx: typer.Context,
    engine: Annotated[bool, typer.Option("--engine/--no-engine", help="Also load the base model.")] = True,
    as_json: Json = False,
) -> None:
    """Check this machine and this installation, and say what to do."""
    from service.doctor import examine

    found = session(ctx)
    with found.factory(found.settings()) as workspace:
        findings = examine(workspace, engine=engine)
    healthy = all(finding.verdict != "failed" for finding in findings)
    if as_json:
        print_json({"healthy": healthy, "checks": [asdict(finding) for finding in findings]})
    else:
        rows = [(finding.check, _MARKS[finding.verdict], finding.found, finding.hint) for finding in findings]
        print_rows(("check", "", "found", "what to do"), rows, "")
    if not healthy:
        raise typer.Exit(FAILED)
