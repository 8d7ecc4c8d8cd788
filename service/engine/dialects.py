"""The dialects of OpenAI's protocol: which server is it, what can it do, and how is a request put to it?

llama-server (tools/server/README.md), vLLM (entrypoints/openai/chat_completion/protocol.py), Ollama
(openai/openai.go), ragtune itself, and OpenAI's own fields for every other server. What a server would
ignore or refuse is refused here, by name; nothing that was asked for is dropped in silence. At temperature 0
nothing is drawn: seed, top_k, top_p and min_p then change nothing and are left out. Knows nothing of HTTP or of
adapters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from data.errors import InvalidRequest
from data.protocols import GenerationRequest
from service.engine.remote import Reply, refusal

Loras = Literal["scaled", "loaded", "models"]
"""How a server has adapters: scaled by each request, loaded by name at run time, or as models of their own."""

_LARGEST_BIAS = 100.0
"""As far as OpenAI and vLLM go, where a token is certain or impossible; infinity is no JSON."""
_SEEDS = 2**32 - 1
"""llama-server takes 32 bits, and the last value as "draw one"."""
_STANDARD = frozenset({"presence_penalty", "frequency_penalty", "seed", "stop", "json_schema", "top_logprobs"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server understands.

    Attributes:
        name: of the server software.
        loras: how it has adapters.
        honours: fields of ``GenerationRequest`` that it takes, beyond messages, max_tokens, temperature and top_p.
        repeat_penalty: its name for that field.
        grammar: its name for that field; a dotted one is a member of an object.
        top_k_all: its top_k that keeps all tokens, said with min_p and the penalties even where nothing is asked,
            because its own defaults or options may do something; None where it has none or cannot be told.
        logprobs: log-probabilities cost it nothing and are always asked for.
    """

    name: str
    loras: Loras
    honours: frozenset[str]
    repeat_penalty: str = "repeat_penalty"
    grammar: str = "grammar"
    top_k_all: int | None = None
    logprobs: bool = True


_EVERYTHING = _STANDARD | {"top_k", "min_p", "repeat_penalty", "logit_bias", "grammar"}
LLAMA_SERVER = Dialect("llama-server", "scaled", _EVERYTHING, top_k_all=0)
VLLM = Dialect(
    "vLLM",
    "loaded",
    _EVERYTHING,
    repeat_penalty="repetition_penalty",
    grammar="structured_outputs.grammar",
    top_k_all=-1,
)
# Ollama's route has no way to set top_k, min_p and repeat_penalty: the model's own (its Modelfile) count.
OLLAMA = Dialect("Ollama", "models", _STANDARD)
RAGTUNE = Dialect("ragtune", "models", _EVERYTHING, top_k_all=0)
OPENAI = Dialect("plain OpenAI", "models", _STANDARD | {"logit_bias"}, logprobs=False)

_BEFORE_STRUCTURED_OUTPUTS = (0, 11)
"""vLLM took guided_grammar until 0.11; a field that it does not know it ignores."""
_OWNERS = {"llamacpp": LLAMA_SERVER, "vllm": VLLM, "ragtune": RAGTUNE}


class Asked(Protocol):
    """Answers a GET (``service.engine.remote.RemoteServer``)."""

    def get(self, path: str, *, root: bool = False) -> Reply:
        """Return the answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """A server that answered: its dialect, and its models without those that are adapters of another."""

    dialect: Dialect
    models: tuple[str, ...]


def detect(server: Asked) -> Found:
    """Ask a server what it is.

    Raises:
        Unauthorized: it refuses the key.
        EngineUnavailable, EngineBusy, EngineTimeout: it does not answer (now).
    """
    reply = server.get("/models")
    if reply.status in (401, 403, 408, 429) or reply.status >= 500:
        raise refusal(reply)
    cards = list_models(reply)
    models = tuple(str(card.get("id")) for card in cards if not card.get("parent"))
    owners = [_OWNERS[owner] for card in cards if (owner := str(card.get("owned_by"))) in _OWNERS]
    return Found(_of_version(server, owners[0]) if owners else _probed(server), models)


def list_models(reply: Reply) -> list[dict[str, Any]]:
    """Return the models of an answer to ``GET /models``, [] where it is no such list."""
    cards = reply.member("data")
    return [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []


def _probed(server: Asked) -> Dialect:
    """Tell llama-server and Ollama by the routes that only they have."""
    if server.get("/props", root=True).member("default_generation_settings") is not None:
        return LLAMA_SERVER
    return OLLAMA if server.get("/api/version", root=True).member("version") is not None else OPENAI


def _of_version(server: Asked, dialect: Dialect) -> Dialect:
    if dialect is not VLLM:
        return dialect
    numbers = re.match(r"(\d+)\.(\d+)", str(server.get("/version", root=True).member("version")))
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= _BEFORE_STRUCTURED_OUTPUTS:
        return VLLM
    return replace(VLLM, grammar="guided_grammar")


def request_body(request: GenerationRequest, dialect: Dialect) -> dict[str, Any]:
    """Return ``request`` as the JSON body of a chat completion, without its model and adapters.

    Raises:
        InvalidRequest: it asks for something that the dialect does not have, or for a form that is none.
    """
    asked = _asked(request)
    check_honoured(asked, dialect)
    body: dict[str, Any] = {
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= _said_anyway(request, dialect)
    for name, value in asked.items():
        _put(body, name, value, dialect)
    if dialect.logprobs or request.logprobs or request.top_logprobs:
        # llama-server reports no log-probability at all where none of the likeliest tokens is asked for.
        body |= {"logprobs": True, "top_logprobs": max(request.top_logprobs, int(dialect is LLAMA_SERVER))}
    return body


def _said_anyway(request: GenerationRequest, dialect: Dialect) -> dict[str, Any]:
    """Return what stands in for a server's own defaults."""
    drawn = request.temperature > 0
    said: dict[str, Any] = {"top_p": request.top_p} if drawn else {}
    if dialect.top_k_all is not None:
        said |= {dialect.repeat_penalty: 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        said |= {"top_k": dialect.top_k_all, "min_p": 0.0} if drawn else {}
    if dialect is LLAMA_SERVER:
        said["repeat_last_n"] = request.max_tokens  # penalties look at all that is written, not at 64 tokens
    return said


def check_honoured(asked: dict[str, Any], dialect: Dialect) -> None:
    """Raise for fields that the dialect does not have.

    Raises:
        InvalidRequest: there is one.
    """
    foreign = {name: value for name, value in asked.items() if name not in dialect.honours}
    if foreign:
        shown = ", ".join(f"{name}={str(value)[:40]}" for name, value in foreign.items())
        raise InvalidRequest(
            f"The server ({dialect.name}) has no {', '.join(foreign)}",
            got=shown,
            wanted=f"of such fields only {', '.join(sorted(dialect.honours))}",
            hint="Leave it out, or serve with llama-server, vLLM or the local engine.",
        )


def _asked(request: GenerationRequest) -> dict[str, Any]:
    """Return the fields that ask for something, by name."""
    if request.grammar is not None and request.json_schema is not None:
        raise InvalidRequest("A text fits a grammar or a JSON schema, not both", wanted="one of the two")
    drawn = request.temperature > 0
    fields: dict[str, tuple[Any, bool]] = {
        "top_k": (request.top_k, drawn and request.top_k > 0),
        "min_p": (request.min_p, drawn and request.min_p > 0),
        "repeat_penalty": (request.repeat_penalty, request.repeat_penalty != 1.0),
        "presence_penalty": (request.presence_penalty, request.presence_penalty != 0.0),
        "frequency_penalty": (request.frequency_penalty, request.frequency_penalty != 0.0),
        "logit_bias": (request.logit_bias, bool(request.logit_bias)),
        "seed": (request.seed, drawn and request.seed is not None),
        "stop": (list(request.stop), bool(request.stop)),
        "grammar": (request.grammar, request.grammar is not None),
        "json_schema": (request.json_schema, request.json_schema is not None),
        "top_logprobs": (request.top_logprobs, request.top_logprobs > 0),
    }
    return {name: value for name, (value, asks) in fields.items() if asks}


def _put(body: dict[str, Any], name: str, value: Any, dialect: Dialect) -> None:
    special: dict[str, Callable[[], dict[str, Any]]] = {
        "repeat_penalty": lambda: {dialect.repeat_penalty: value},
        "logit_bias": lambda: {"logit_bias": {str(token): _within(bias) for token, bias in value.items()}},
        "seed": lambda: {"seed": value % _SEEDS},
        "grammar": lambda: _nested(dialect.grammar, value),
        "json_schema": lambda: {"response_format": _response_format(value)},
        "top_logprobs": dict,  # with logprobs
    }
    body.update(special.get(name, lambda: {name: value})())


def _within(bias: float) -> float:
    return max(-_LARGEST_BIAS, min(_LARGEST_BIAS, bias))


def _nested(path: str, value: Any) -> dict[str, Any]:
    outer, _, inner = path.partition(".")
    return {outer: {inner: value} if inner else value}


def _response_format(schema: str) -> dict[str, Any]:
    try:
        parsed = json.loads(schema)
    except ValueError as error:
        raise InvalidRequest(f"The JSON schema is not JSON: {error}", got=schema[:200]) from error
    # Without strict OpenAI's own takes the schema as a suggestion.
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": parsed, "strict": True}}
