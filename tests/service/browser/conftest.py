"""A real browser before a real server: Debian's Chromium, driven by Playwright, with what must never happen watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.service.conftest import real_server
from tests.service.parts import DOCUMENTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from service.workspace import Workspace
    from tests.service.parts import ScriptedGenerator

ROOT = Path(__file__).parents[3]
PATIENCE_MS = 20_000
"""How long a page may take to show what it should, on a machine that has other work."""
CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)

SERVER = """
from service.serve import serve
from service.settings import Settings
from service.workspace import Workspace
serve(Workspace(Settings.load()), on_ready=lambda url: print(url, flush=True))
"""


@pytest.fixture
def scripted(indexed: Workspace, generator: ScriptedGenerator) -> Iterator[str]:
    """Return the URL of a server in this process whose generator follows a script (no jobs are run)."""
    generator.reply = "1842 [1]"
    with real_server(indexed) as url:
        yield url


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of the starter behind a server process that runs jobs, with the documents indexed."""
    state = tmp_path_factory.mktemp("browser") / "state"
    environment = {**os.environ, "RAGTUNE_STATE_DIR": str(state), "RAGTUNE_PORT": "0"}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            upload(url, DOCUMENTS)
            yield url
        finally:
            process.terminate()
            assert process.wait(60) == 0


def upload(url: str, documents: dict[str, str], collection: str = "default") -> None:
    """Index documents over HTTP and wait for it."""
    import httpx

    files = [("files", (name, text.encode())) for name, text in documents.items()]
    with httpx.Client(base_url=url, timeout=120) as http:
        job = http.post("/v1/documents", files=files, data={"collection": collection}).json()["job_id"]
        with http.stream("GET", f"/v1/jobs/{job}/events") as events:
            for _ in events.iter_lines():
                pass
        assert http.get(f"/v1/jobs/{job}").json()["status"] == "succeeded"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Chromium, closed after each module: its driver keeps an event loop in this thread.

    Where there is none the test is skipped and says what to install.
    """
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    # A container's root has no sandbox of its own to give; these pages are ours.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@dataclass
class Watch:
    """What a browser did that it must not do; ``allowed`` are parts of console messages that a test provokes."""

    url: str
    found: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        """Listen to a page."""
        page.on("request", self._request)
        page.on("console", lambda message: self._console(message.type, message.text))
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "blob:" + self.url, "data:")):
            self.found.append(f"off-origin request: {request.url}")

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(part in text for part in self.allowed):
            self.found.append(f"console {kind}: {text}")


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return ``open_page(url, fragment, **context)``; at the end nothing forbidden may have happened on any page."""
    contexts: list[BrowserContext] = []
    watches: list[Watch] = []

    def open_(url: str, fragment: str = "#/ask", **options: Any) -> Page:
        allowed = options.pop("allowed", [])
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1200, "height": 900}, **options})
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        watches.append(Watch(url, allowed=allowed))
        context.on("page", watches[-1].follow)
        page = context.new_page()
        page.goto(f"{url}/{fragment}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [each for watch in watches for each in watch.found] == []
