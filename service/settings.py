"""Every setting, and the only place that reads the environment.

A value comes from (first wins) an argument, an environment variable ``RAGTUNE_<NAME>``, or the default
below. Knows nothing of what the values are used for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from data.errors import InvalidRequest
from service.addresses import Network, parse_networks
from service.verification import Unsupported

Rerank = Literal["off", "likelihood", "cross-encoder"]
"""Who reads the best passages again: nobody, the engine (how likely is the query?), or a cross-encoder."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PREFIX = "RAGTUNE_"


class Settings(BaseSettings):
    """Settings of one ragtune process. Sizes are tokens unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

    state_dir: Path = Field(Path("var"), description="Where everything is kept.")
    database_url: SecretStr | None = Field(
        None, description="A PostgreSQL server instead of the file in the state directory; several servers share it."
    )
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key: SecretStr | None = Field(None, description="A key that is always accepted; required off loopback.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Host names clients may use besides the loopback names; comma-separated in the environment."
    )

    model: str = Field("starter", description="Base model: starter, a .gguf path, a folder, a hub id or a name.")
    milvus_uri: str | None = Field(
        None, description="A Milvus server (or a file for Milvus Lite) that holds the vectors instead of files here."
    )
    milvus_token: SecretStr | None = Field(None, description="Its user:password, or an API key.")
    ray_address: str | None = Field(
        None,
        description="A Ray cluster for ingest, pairs, evaluations: auto (this machine's), or HOST:PORT; off if none.",
    )
    embedder: str = Field("starter", description="Embedding model: starter, a folder or a hub id.")
    embed_batch_size: int = Field(32, ge=1)
    rerank: Rerank = Field("off", description="Reads the best passages again: off, likelihood or cross-encoder.")
    cross_encoder: str | None = Field(None, description="The cross-encoder: a folder or a hub id.")

    n_ctx: int = Field(4096, ge=256)
    n_threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    queue_size: int = Field(16, ge=1, description="Requests that may wait for the engine.")
    sequences: int = Field(8, ge=1, le=64, description="Requests that the engine decodes together.")
    n_batch: int | None = Field(None, ge=16, le=2048, description="Tokens of one stretch of a prompt; as measured.")
    flash_attention: bool | None = Field(None, description="llama.cpp's fused attention; as measured.")
    kv_type: Literal["f16", "f32", "bf16", "q8_0"] | None = Field(None, description="Of keys and values.")
    drafts: int | None = Field(None, ge=0, le=32, description="Most tokens guessed ahead; as measured.")
    kv_memory_mb: int = Field(512, ge=0, description="Memory for what the engine has read before.")
    kv_disk_mb: int = Field(2048, ge=0, description="Disk for the passages that the engine has read before.")
    engine_timeout_s: float = Field(300.0, gt=0)
    unsupported: Unsupported = Field(
        "mark", description="Sentences no passage bears out: keep them, mark them, or remove them."
    )
    refuse_stale_adapters: bool = Field(
        False, description="Neither promote nor serve an adapter whose documents were edited or deleted."
    )
    loop_folders: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders that a round of the loop keeps the collection equal to; comma-separated."
    )
    promotion_policy: Path | None = Field(None, description="A TOML file: what an adapter must show before it serves.")

    engine_url: str | None = Field(
        None, description="OpenAI-compatible servers that generate instead of the local engine; comma-separated."
    )
    engine_model: str | None = Field(None, description="The model's name there; by default the only one it lists.")
    engine_api_key: SecretStr | None = None

    chunk_size: int = Field(200, ge=16)
    chunk_overlap: int = Field(0, ge=0)
    max_document_bytes: int = Field(100 * 1024 * 1024, ge=1)
    max_body_bytes: int = Field(1024 * 1024, ge=1, description="Largest body of a request that is not a form of files.")
    max_question_chars: int = Field(20_000, ge=1)

    signon_header: str | None = Field(
        None, pattern=r"^[A-Za-z0-9-]+$", description="The header in which a proxy names who is signed on; off if none."
    )
    signon_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="Addresses or networks of the proxies that are believed; comma-separated."
    )
    webhook_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="Private networks that webhooks may go to; comma-separated."
    )
    teacher_url: str | None = Field(None, description="An OpenAI-compatible server that writes pairs.")
    teacher_model: str = "default"
    teacher_api_key: SecretStr | None = None

    judge_url: str | None = Field(None, description="An OpenAI-compatible server that says which answer is better.")
    judge_model: str = Field("", description="The model's name there; by default the only one it lists.")
    judge_api_key: SecretStr | None = None

    lease_s: float = Field(15.0, gt=1, description="A job whose process is silent for so long is interrupted.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    demo_serve: bool = Field(
        True,
        validation_alias=AliasChoices("demo_serve", "RAGTUNE_DEMO_SERVE", "DEMO_SERVE"),
        description="Whether the demo ends by serving.",
    )

    @field_validator("database_url", "milvus_token", "milvus_uri", "ray_address", mode="before")
    @classmethod
    def _none_if_empty(cls, value: Any) -> Any:
        return value or None

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(filter(None, (host.strip().lower() for host in value.split(","))))
        return value

    @field_validator("webhook_networks", "signon_proxies", mode="before")
    @classmethod
    def _split_networks(cls, value: Any) -> Any:
        return parse_networks(value) if isinstance(value, str) else value

    @field_validator("loop_folders", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return tuple(filter(None, (path.strip() for path in value.split(",")))) if isinstance(value, str) else value

    @classmethod
    def load(cls, **values: Any) -> Settings:
        """Return the settings, ``values`` first.

        Raises:
            InvalidRequest: a value is of the wrong type or out of range, or a name is unknown.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise InvalidRequest(
                f"The setting {name} is not valid: {first['msg']}",
                got=first.get("input"),
                hint=f"Set {_PREFIX}{name.upper()} or the matching option.",
            ) from error

    @property
    def loopback(self) -> bool:
        """Tell whether the server can be reached from this machine only."""
        return self.host in LOOPBACK

    def environment(self) -> dict[str, str]:
        """Return the environment in which a child process reads these same settings."""
        values = dict(os.environ)
        for name, value in self.model_dump(exclude_unset=True, exclude_none=True).items():
            if isinstance(value, tuple):
                values[_PREFIX + name.upper()] = ",".join(map(str, value))
            elif isinstance(value, SecretStr):
                values[_PREFIX + name.upper()] = value.get_secret_value()
            else:
                values[_PREFIX + name.upper()] = str(value)
        values[_PREFIX + "STATE_DIR"] = str(self.state_dir.resolve())
        return values


def collector() -> tuple[str | None, str]:
    """Return where OpenTelemetry's own variables send traces and in which protocol; None where they turn it off."""

    def said(name: str) -> str:
        return os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") or ""

    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    off = off or (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp") != "otlp"
    return (None if off else said("ENDPOINT") or None), said("PROTOCOL") or "http/protobuf"


def traces_hold_texts() -> bool:
    """Tell whether questions, passages and answers may be in traces; a variable of OpenTelemetry's instrumentations."""
    return os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").lower() in ("true", "span_only")
