"""Delivers notices of finished jobs: signed, tried again with growing pauses, to public addresses only.

The form and the signature are those of the Standard Webhooks specification
(https://github.com/standard-webhooks/standard-webhooks), for which receivers have libraries. Delivery is at least
once: a receiver tells repeats by ``webhook-id``. Knows nothing of how notices come to be.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2

from data.errors import InvalidRequest
from data.store import Due, NoticeStatus, Webhook
from service.addresses import check_url, resolve

if TYPE_CHECKING:
    from service.workspace import Workspace

log = logging.getLogger(__name__)

FIRST_PAUSE_S, GROWTH, LONGEST_PAUSE_S = 5.0, 3.0, 4 * 3600.0
MOST_ATTEMPTS = 12
"""The last comes 16 hours after the first: a receiver may be down for a night."""
TIMEOUT_S = 15.0
LOOK_S = 1.0
STOP_S = 2.0
"""How long a notice under way gets when the server stops; one that is cut off is delivered again."""
_SHOWN_CHARS = 200


def pause_s(attempts: int) -> float:
    """Return how long to wait after the attempt of that number, counting from 1."""
    return float(min(FIRST_PAUSE_S * GROWTH ** (attempts - 1), LONGEST_PAUSE_S))


def sign(secret: str, notice_id: str, timestamp: int, body: bytes) -> str:
    """Return the ``webhook-signature`` of a notice: HMAC-SHA256 over its id, its time and its body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{notice_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def webhook_view(webhook: Webhook) -> dict[str, Any]:
    """Return a webhook as clients see it, without its secret."""
    return {
        "id": webhook.id,
        "url": webhook.url,
        "key_id": webhook.key_id,
        "collections": list(webhook.collections),
        "kinds": list(webhook.kinds),
        "created_at": webhook.created_at,
    }


class WebhookSender:
    """Delivers what is due, one after the other, in a thread of its own; what fails waits in the store.

    Args:
        workspace: whose store and settings.
        clock: Unix seconds, for tests.
    """

    def __init__(self, workspace: Workspace, *, clock: Callable[[], float] = time.time) -> None:
        self._workspace = workspace
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin delivering, with what a former process left."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the notice under way, or leave it to the next process."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def deliver_due(self) -> int:
        """Try every notice whose time has come, and return how many were tried."""
        due = self._workspace.store.webhooks.due(self._clock())
        tried = 0
        for each in due:
            if self._stopping.is_set():
                break
            self._try(each)
            tried += 1
        return tried

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.deliver_due()
            except Exception:
                log.exception("delivering webhooks failed; it goes on")

    def _try(self, due: Due) -> None:
        notice = due.notice
        try:
            status = self._send(due)
            delivered, reply = 200 <= status < 300, f"HTTP {status}"
        except (httpx2.HTTPError, InvalidRequest, OSError) as error:
            delivered, reply = False, f"{type(error).__name__}: {error}"[:_SHOWN_CHARS]
        attempts = notice.attempts + 1
        outcome: NoticeStatus = "delivered" if delivered else "given up" if attempts >= MOST_ATTEMPTS else "pending"
        host = urlsplit(due.url).hostname
        log.info("webhook %s to %s: %s (%s, attempt %d)", notice.id, host, outcome, reply, attempts)
        self._workspace.store.webhooks.tried(notice.id, outcome, reply, self._clock() + pause_s(attempts))

    def _send(self, due: Due) -> int:
        """Post a notice to the address that was looked at, and return the status.

        Raises:
            InvalidRequest: the host has no address, or a private one.
            httpx2.HTTPError: it cannot be reached.
            TimeoutError: it does not answer in time.
        """
        host, port = check_url(due.url)
        parts = urlsplit(due.url)
        address = resolve(host, port, self._workspace.settings.webhook_networks)
        url = httpx2.URL(due.url).copy_with(host=address, port=port)
        body = json.dumps(due.notice.event, ensure_ascii=False).encode()
        now = int(self._clock())
        headers = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "User-Agent": f"ragtune/{version('ragtune')}",
            "webhook-id": due.notice.id,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(due.secret, due.notice.id, now, body),
        }
        request = httpx2.Request("POST", url, content=body, headers=headers, extensions={"sni_hostname": host})
        # For all of it: a receiver that sends a byte now and then must not hold up the others.
        return asyncio.run(asyncio.wait_for(_status_of(request), TIMEOUT_S))


async def _status_of(request: httpx2.Request) -> int:
    """Send a request and return the status of its response, whose body nobody reads."""
    # No proxy of the environment, which would resolve the name once more, and no redirect to elsewhere.
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as http:
        response = await http.send(request, stream=True)
        await response.aclose()
        return int(response.status_code)
