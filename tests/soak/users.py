"""What the clients of a soak do; run by locust, which has an environment of its own (``make soak``).

Mixed: questions, streams that are left, searches, listings, uploads, rebuilds and trainings. A 429 or
a 503 with Retry-After is an answer; any other 5xx is a failure, and so is a training that failed.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from locust import HttpUser, constant, task

QUESTIONS = (
    "Who won Super Bowl XLIX?",
    "What is a prime number?",
    "Who lost to the Broncos in the divisional round?",
    "What is the Scottish Parliament?",
)
FULL = {429, 503}
SAMPLES = Path(__file__).parents[2] / "data" / "samples" / "questions.jsonl"
BETWEEN_TRAININGS_S = 240
STEPS = 2
ENDED = {"succeeded", "failed", "cancelled"}


class Person(HttpUser):
    """Somebody who asks, and now and then changes the documents."""

    wait_time = constant(0.2)

    def _send(self, method: str, path: str, name: str, **options: object) -> None:
        with self.client.request(method, path, name=name, catch_response=True, **options) as answer:
            if answer.status_code in FULL and "retry-after" in answer.headers:
                answer.success()
            elif answer.status_code >= 400:
                answer.failure(f"{answer.status_code} {answer.text[:200]}")

    @task(6)
    def ask(self) -> None:
        question = f"{random.choice(QUESTIONS)} ({random.randrange(50)})"
        self._send("POST", "/v1/answers", "ask", json={"question": question, "max_tokens": 16})

    @task(2)
    def leave_a_stream(self) -> None:
        body = {"question": random.choice(QUESTIONS), "stream": True, "max_tokens": 64}
        started = time.perf_counter()
        with self.client.post("/v1/answers", json=body, stream=True, name="leave", catch_response=True) as answer:
            if answer.status_code not in FULL and answer.status_code >= 400:
                answer.failure(str(answer.status_code))
                return
            for line in answer.iter_lines():
                if b"token" in line or time.perf_counter() - started > 20:
                    break
            answer.success()

    @task(6)
    def search(self) -> None:
        self._send("POST", "/v1/search", "search", json={"query": random.choice(QUESTIONS)})

    @task(2)
    def look(self) -> None:
        self._send("GET", "/v1/documents", "list")

    @task(1)
    def ingest(self) -> None:
        number = random.randrange(20)
        text = f"# Note {number}\n\nThe keeper of light {number} saw {random.randrange(10**6)} ships.\n"
        self._send("POST", "/v1/documents", "ingest", files={"files": (f"note{number}.md", text)})

    @task(1)
    def health(self) -> None:
        self._send("GET", "/healthz", "health")


class Keeper(HttpUser):
    """The one who rebuilds the index now and then."""

    fixed_count = 1
    wait_time = constant(15)

    @task
    def rebuild(self) -> None:
        with self.client.post("/v1/index/rebuild", json={}, name="rebuild", catch_response=True) as answer:
            if answer.status_code in {202, 409, *FULL}:
                answer.success()


class Trainer(HttpUser):
    """The one who imports pairs and trains an adapter of them, again and again, each time for a few steps."""

    fixed_count = 1
    wait_time = constant(BETWEEN_TRAININGS_S)

    def on_start(self) -> None:
        """Import the sample questions as pairs; what is known already is not doubled."""
        lines = SAMPLES.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        rows = [{"question": row["question"], "answers": row["answers"]} for row in rows if row["answers"]]
        self._job("/v1/pairs/import", "import pairs", {"rows": rows})

    @task
    def train(self) -> None:
        self._job("/v1/adapters", "train", {"name": "soak", "recipe": {"max_steps": STEPS}})

    def _job(self, path: str, name: str, body: dict[str, object]) -> None:
        """Start a job and wait for its end, which is what counts."""
        with self.client.post(path, json=body, name=name, catch_response=True) as answer:
            if answer.status_code in FULL:
                answer.success()
            if answer.status_code != 202:
                return
            job_id, job = answer.json()["job_id"], {}
            while job.get("status") not in ENDED:
                time.sleep(1)
                with self.client.get(f"/v1/jobs/{job_id}", name="job", catch_response=True) as told:
                    told.success()
                    job = told.json() if told.status_code == 200 else job
            if job["status"] == "failed":
                answer.failure(str(job.get("error"))[:500])
