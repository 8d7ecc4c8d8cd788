"""A server of each dialect on a real socket, with a toy model behind it that samples as real ones do.

The routes, fields, events and refusals are those that llama-server (tools/server), vLLM
(entrypoints/openai), Ollama (openai, middleware) and OpenAI document; unlike all of them but OpenAI it refuses a
field that it does not know instead of ignoring it, so that no test passes on a field that would be ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
import select
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import numpy as np

WORDS = ("<end>", *(f" {a}{b}" for a in ("ka", "lo", "mi", "ne", "su", "to") for b in ("ba", "do", "gi", "fu", "ra")))
"""The toy model's vocabulary; a token is an index."""
N_CTX = 1024
MODEL = "toy"
ENDLESS = "ten thousand"
"""A prompt with these words is answered with one token, then with silence until the client hangs up."""

_OPENAI = frozenset(
    {"model", "messages", "max_tokens", "temperature", "top_p", "stream", "stream_options", "seed", "stop"}
    | {"presence_penalty", "frequency_penalty", "logit_bias", "response_format", "logprobs", "top_logprobs"}
)
KNOWN = {
    "openai": _OPENAI,
    "ollama": _OPENAI - {"logit_bias"},
    "vllm": _OPENAI | {"top_k", "min_p", "repetition_penalty", "structured_outputs"},
    "old-vllm": _OPENAI | {"top_k", "min_p", "repetition_penalty", "guided_grammar"},
    "llama-server": _OPENAI | {"top_k", "min_p", "repeat_penalty", "repeat_last_n", "grammar", "lora"},
}


class Refused(Exception):
    """A refusal: a status and the JSON that goes with it."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self.body = body


class FakeServer:
    """Serves one dialect on a free port; a context manager.

    Attributes:
        adapters: files given at the start (llama-server, by their position) or models by name (the others).
        loads: whether vLLM was started so that it loads adapters at run time.
        models: names of the base models.
        reply: what to say to a chat completion's body; the toy model speaks by default.
        seen: (path, body) of every POST.
        hung_up: set when a client left an endless answer.
    """

    def __init__(self, dialect: str, *, adapters: dict[str, str] | None = None, loads: bool = True) -> None:
        self.dialect = dialect
        self.adapters = dict(adapters or {})
        self.loads = loads
        self.models: tuple[str, ...] = (MODEL,)
        self.reply: Callable[[dict[str, Any]], str] | None = None
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.hung_up = threading.Event()
        self._http = _Http(self)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def body(self) -> dict[str, Any]:
        """The body of the latest chat completion."""
        return next(body for path, body in reversed(self.seen) if path == "/v1/chat/completions")

    @property
    def vllm(self) -> bool:
        return self.dialect in ("vllm", "old-vllm")

    def get(self, path: str) -> Any:
        """Return the answer to a GET, None where there is no such route."""
        if path == "/v1/models":
            return {"object": "list", "data": self._cards()}
        routes: dict[str, Any] = {}
        if self.dialect == "llama-server":
            listed = [{"id": i, "path": path, "scale": 1.0} for i, path in enumerate(self.adapters.values())]
            routes = {"/props": {"default_generation_settings": {"n_ctx": N_CTX}}, "/lora-adapters": listed}
        if self.dialect == "ollama":
            routes = {"/api/version": {"version": "0.12.3"}}
        if self.vllm:
            routes = {"/version": {"version": "0.10.1" if self.dialect == "old-vllm" else "0.14.0"}}
        return routes.get(path)

    def _cards(self) -> list[dict[str, Any]]:
        owner = {"llama-server": "llamacpp", "ollama": "library", "openai": "system"}.get(self.dialect, "vllm")
        cards: list[dict[str, Any]] = [{"id": name, "object": "model", "owned_by": owner} for name in self.models]
        if self.vllm:
            cards = [{**card, "root": "toy", "parent": None} for card in cards]
            cards += [
                {"id": name, "object": "model", "owned_by": owner, "root": path, "parent": self.models[0]}
                for name, path in self.adapters.items()
            ]
        elif self.dialect != "llama-server":
            cards += [{"id": name, "object": "model", "owned_by": owner} for name in self.adapters]
        return cards

    def post(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]] | str:
        """Return the events of a completion, or a text.

        Raises:
            Refused: as the server would.
        """
        self.seen.append((path, body))
        if path == "/v1/chat/completions":
            return self._complete(body)
        if self.vllm and self.loads and path == "/v1/load_lora_adapter":
            if body["lora_name"] in self.adapters:
                raise Refused(
                    400, {"error": {"message": f"The lora adapter '{body['lora_name']}' has already been loaded."}}
                )
            self.adapters[body["lora_name"]] = body["lora_path"]
            return f"Success: LoRA adapter '{body['lora_name']}' added successfully."
        if self.vllm and self.loads and path == "/v1/unload_lora_adapter":
            del self.adapters[body["lora_name"]]
            return "Success"
        raise Refused(404, {"detail": "Not Found"})

    def _complete(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        unknown = set(body) - KNOWN[self.dialect]
        if unknown:
            raise Refused(400, _error(f"Unrecognized request argument supplied: {sorted(unknown)}", 400))
        prompt = " ".join(message["content"] for message in body["messages"])
        self._check_length(len(prompt.split()), body["max_tokens"])
        writer = Writer(body, prompt, self._salts(body), self.reply(body) if self.reply else None)
        if ENDLESS in prompt:
            return writer.endless()
        return writer.events(timings=self.dialect == "llama-server", cached=self.dialect in ("llama-server", "vllm"))

    def _salts(self, body: dict[str, Any]) -> dict[str, float]:
        """Return the adapters that a request is answered with, and their scales."""
        if self.dialect == "llama-server":
            given = {one["id"]: one["scale"] for one in body.get("lora", [])}
            paths = list(self.adapters.values())
            # An empty list is as good as none: then every adapter is applied as at the start.
            return {path: given.get(i, 0.0) if given else 1.0 for i, path in enumerate(paths)}
        if body["model"] in self.adapters:
            return {body["model"]: 1.0}
        if body["model"] not in self.models:
            raise Refused(404, _error(f"The model `{body['model']}` does not exist.", 404))
        return {}

    def _check_length(self, prompt: int, new: int) -> None:
        if self.dialect == "llama-server" and prompt >= N_CTX:
            said = f"request ({prompt} tokens) exceeds the available context size ({N_CTX} tokens), try increasing it"
            more = {"type": "exceed_context_size_error", "n_prompt_tokens": prompt, "n_ctx": N_CTX}
            raise Refused(400, {"error": {"code": 400, "message": said, **more}})
        if self.dialect == "ollama" and prompt >= N_CTX:
            raise Refused(400, _error("the input length exceeds the context length", None))
        if self.dialect not in ("llama-server", "ollama") and prompt + new > N_CTX:
            said = (
                f"This model's maximum context length is {N_CTX} tokens. However, you requested {new} output tokens "
                f"and your prompt contains at least {prompt} input tokens, in total at least {prompt + new} tokens."
            )
            raise Refused(400, _error(said, 400))


def _error(message: str, code: int | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


class Writer:
    """Writes one completion: a random but fixed distribution after each prefix, sampled as the request says."""

    def __init__(self, body: dict[str, Any], prompt: str, salts: dict[str, float], reply: str | None = None) -> None:
        self._body = body
        self._reply = reply
        self._prompt = prompt
        self._salts = salts
        self._random = np.random.default_rng(body.get("seed"))
        self._written: list[int] = []

    def endless(self) -> Iterator[dict[str, Any]]:
        yield _chunk({"role": "assistant", "content": WORDS[1]})
        yield {"endless": True}

    def events(self, *, timings: bool, cached: bool) -> Iterator[dict[str, Any]]:
        forced = self._forced()
        yield _chunk({"role": "assistant", "content": ""})
        reason, text, count = "length", "", 0
        for piece, place in self._tokens(forced):
            count += 1
            if piece is None:
                reason = "stop"
                break
            whole = text + piece
            ends = [whole.index(stop) for stop in self._body.get("stop") or () if stop in whole]
            shown = whole[: min(ends)][len(text) :] if ends else piece
            yield _chunk({"content": shown}, logprobs=place if self._body.get("logprobs") else None)
            text = whole
            if ends:
                reason = "stop"
                break
        clock = {"timings": {"cache_n": 1, "prompt_ms": 12.5, "predicted_n": count, "predicted_ms": 34.5}}
        yield _chunk({}, reason) | (clock if timings else {})
        usage: dict[str, Any] = {"prompt_tokens": len(self._prompt.split()), "completion_tokens": count}
        yield {"choices": [], "usage": usage | ({"prompt_tokens_details": {"cached_tokens": 1}} if cached else {})}

    def _tokens(self, forced: list[str]) -> Iterator[tuple[str | None, dict[str, Any] | None]]:
        for piece in forced:
            yield piece, _place(piece, -0.25, [])
        if forced:
            yield None, None
            return
        while len(self._written) < self._body["max_tokens"]:
            logits = self._logits()
            token = self._choose(logits)
            logprobs = logits - np.log(np.exp(logits).sum())
            self._written.append(token)
            best = np.argsort(-logprobs)[: self._body.get("top_logprobs", 0)]
            top = [(WORDS[i], float(logprobs[i])) for i in best]
            yield None if token == 0 else WORDS[token], _place(WORDS[token], float(logprobs[token]), top)

    def _forced(self) -> list[str]:
        """Return the pieces of a text that is given, or whose form is; [] where it is free."""
        if self._reply is not None:
            return re.findall(r".{1,7}", self._reply, re.DOTALL)
        grammar = self._body.get("grammar") or self._body.get("guided_grammar")
        grammar = grammar or (self._body.get("structured_outputs") or {}).get("grammar")
        if grammar:
            found = re.fullmatch(r'root ::= "(\w+)"', grammar)
            if not found:
                raise Refused(400, _error("failed to parse grammar", 400))
            return re.findall(r".{1,3}", found[1])
        wanted = self._body.get("response_format")
        if not wanted:
            return []
        assert wanted["type"] == "json_schema"
        assert wanted["json_schema"]["name"]
        return re.findall(r".{1,4}", json.dumps(self._instance(wanted["json_schema"]["schema"])))

    def _instance(self, schema: dict[str, Any]) -> Any:
        if "enum" in schema:
            return schema["enum"][0]
        if schema["type"] == "object":
            return {name: self._instance(inner) for name, inner in schema["properties"].items()}
        return {"string": WORDS[self._choose(self._logits())].strip(), "integer": 7}[schema["type"]]

    def _logits(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        place = f"{self._prompt} {self._written}"
        logits = _noise(place)
        for name, scale in self._salts.items():
            logits = logits + scale * _noise(f"{name} {place}")
        logits[0] = 10 if len(self._written) == 40 else -10  # it ends after 40 tokens
        body = self._body
        repeat = body.get("repeat_penalty") or body.get("repetition_penalty") or 1.0
        for token in set(self._written):
            logits[token] = logits[token] / repeat if logits[token] > 0 else logits[token] * repeat
            logits[token] -= body.get("presence_penalty", 0) + body.get("frequency_penalty", 0) * self._written.count(
                token
            )
        for token, bias in body.get("logit_bias", {}).items():
            logits[int(token)] += bias
        return logits

    def _choose(self, logits: np.ndarray[Any, np.dtype[np.float64]]) -> int:
        if not self._body.get("temperature", 1.0):
            return int(logits.argmax())
        weights = np.exp((logits - logits.max()) / self._body["temperature"])
        order = np.argsort(-weights)
        top_k = self._body.get("top_k", 0)
        kept = order[: top_k if top_k > 0 else len(order)]
        kept = kept[weights[kept] >= self._body.get("min_p", 0) * weights[order[0]]]
        share = weights[kept] / weights[kept].sum()
        kept = kept[: int(np.searchsorted(np.cumsum(share), self._body.get("top_p", 1.0))) + 1]
        return int(self._random.choice(kept, p=weights[kept] / weights[kept].sum()))


def _noise(text: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    return 2 * np.random.default_rng(seed).standard_normal(len(WORDS))


def _chunk(delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}


def _place(token: str, logprob: float, top: list[tuple[str, float]]) -> dict[str, Any]:
    likeliest = [{"token": text, "logprob": value} for text, value in top]
    return {"content": [{"token": token, "logprob": logprob, "bytes": None, "top_logprobs": likeliest}]}


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Http

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        found = self.server.fake.get(self.path)
        self._json(404 if found is None else 200, {"detail": "Not Found"} if found is None else found)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            reply = self.server.fake.post(self.path, body)
            events = iter(()) if isinstance(reply, str) else reply
            first = next(events, None)  # what is wrong with the request shows before the status is sent
        except Refused as refused:
            self._json(refused.status, refused.body)
            return
        if isinstance(reply, str):
            self._json(200, reply)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b": ping\n\n")
        while first is not None:
            if first.get("endless"):
                self._wait_for_hang_up()
                return
            self._data(json.dumps(first))
            first = next(events, None)
        self._data("[DONE]")

    def _wait_for_hang_up(self) -> None:
        readable, _, _ = select.select([self.connection], [], [], 20)
        if readable and self.connection.recv(1) == b"":
            self.server.fake.hung_up.set()

    def _data(self, text: str) -> None:
        self.wfile.write(f"data: {text}\n\n".encode())

    def _json(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
