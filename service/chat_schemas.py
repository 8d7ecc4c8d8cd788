"""OpenAI's chat request, checked: its own fields, llama-server's further ones for sampling, and ragtune's two.

Fields that OpenAI's API has and ragtune does not are ignored, as clients send them unasked; null is as good as left
out. Knows nothing of arms or answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from data.errors import InvalidRequest
from data.protocols import GenerationRequest
from data.records import Message
from service.schemas import Unicode

MOST_STOPS = 4
"""As many as OpenAI's API takes."""
MOST_BIASES = 1024
_ANY_OBJECT = '{"type": "object"}'
_DEFAULT_MAX_TOKENS = 256
_HOUSE_NAMES = {"top_k": "n_passages"}

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Count = Annotated[int, Strict(), Field(ge=1, le=8192)]
Penalty = Annotated[Number, Field(ge=-2, le=2)]
Bias = Annotated[Number, Field(ge=-100, le=100)]


class ContentPart(BaseModel):
    """A part of a message's content; only text is understood."""

    model_config = ConfigDict(extra="ignore")
    type: str
    text: str = ""


class ChatMessage(BaseModel):
    """One message, as OpenAI's clients send it."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]

    def message(self) -> Message:
        """Return it as a prompt message.

        Raises:
            InvalidRequest: a part is not text.
        """
        parts = [ContentPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        for part in parts:
            if part.type != "text":
                raise InvalidRequest("Only text content is understood", got=part.type, wanted="text")
        role = "system" if self.role == "developer" else self.role
        return Message(role, tuple(part.text for part in parts))


class StreamOptions(BaseModel):
    """OpenAI's ``stream_options``."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class TextFormat(BaseModel):
    """``response_format`` for any text."""

    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    """``response_format`` for any JSON object."""

    type: Literal["json_object"]


class NamedSchema(BaseModel):
    """A JSON schema; its name and description are for the client."""

    model_config = ConfigDict(extra="ignore")
    body: dict[str, Any] = Field(alias="schema")


class JsonSchemaFormat(BaseModel):
    """``response_format`` for JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatBody(Unicode):
    """``POST /v1/chat/completions``.

    ``top_k`` is how many of the likeliest tokens are sampled from, as in llama-server; how many passages an arm reads
    is ``n_passages``.
    """

    model_config = ConfigDict(extra="ignore")
    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Strict(), Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Annotated[Number, Field(ge=0.1, le=10)] | None = None
    logit_bias: dict[Annotated[int, Field(ge=0)], Bias] | None = Field(None, max_length=MOST_BIASES)
    logprobs: Annotated[bool, Strict()] | None = None
    top_logprobs: Annotated[int, Strict(), Field(ge=0, le=20)] | None = None
    seed: Annotated[int, Strict()] | None = None
    stop: list[Annotated[str, Field(min_length=1, max_length=1000)]] | None = None
    response_format: ResponseFormat | None = None
    grammar: str | None = Field(None, min_length=1)
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    collection: str = "default"
    n_passages: Annotated[int, Strict(), Field(ge=1, le=50)] = 4

    def with_defaults(self, sampling: Mapping[str, Any]) -> ChatBody:
        """Return it with a collection's sampling defaults (``data.records.House``) for what it leaves out."""
        found = {_HOUSE_NAMES.get(name, name): value for name, value in sampling.items()}
        if self.max_completion_tokens is not None:
            found.pop("max_tokens", None)
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        return self.model_copy(update={name: value for name, value in found.items() if name not in given})

    @field_validator("n", mode="before", json_schema_input_type=Literal[1] | None)
    @classmethod
    def _one_choice(cls, value: object) -> object:
        if value is not None and value != 1:
            raise ValueError("n must be 1: one completion is made for a request; send it again for another")
        return value

    @field_validator("stop", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _listed(cls, value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if value is not None and not (
            isinstance(value, list) and len(value) <= MOST_STOPS and all(isinstance(text, str) for text in value)
        ):
            raise ValueError(f"stop must be a string or a list of at most {MOST_STOPS} strings")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if self.grammar is not None and self.json_schema is not None:
            raise ValueError("a grammar and a response_format of JSON exclude each other: send one of them")
        return self

    @property
    def limit(self) -> int:
        """Return the bound on generated tokens."""
        return self.max_completion_tokens or self.max_tokens or _DEFAULT_MAX_TOKENS

    @property
    def json_schema(self) -> str | None:
        """Return the JSON schema that the text has to fit, as JSON."""
        if isinstance(self.response_format, JsonSchemaFormat):
            return json.dumps(self.response_format.json_schema.body)
        return _ANY_OBJECT if isinstance(self.response_format, JsonObjectFormat) else None

    def request(self, timeout_s: float) -> GenerationRequest:
        """Return its messages and settings as a generation request.

        Raises:
            InvalidRequest: a part of a message is not text.
        """
        given = self.model_dump(
            include={
                "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty",
                "logit_bias", "logprobs", "top_logprobs", "seed", "grammar",
            },
            exclude_none=True,
        )  # fmt: skip
        return GenerationRequest(
            tuple(message.message() for message in self.messages),
            max_tokens=self.limit,
            stop=tuple(self.stop or ()),
            json_schema=self.json_schema,
            timeout_s=timeout_s,
            **given,
        )
