"""Settings of the engine: where AnythingLLM is, and how hard it may be worked."""

from enum import StrEnum
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from repositories.settings import blank_is_unset, without_credentials


class Convert(StrEnum):
    """Which documents are turned into Markdown before AnythingLLM gets them."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class EngineSettings(BaseSettings):
    """Without ``ANYTHINGLLM_URL`` the local engine is used, which keeps documents and answers in PostgreSQL."""

    parser_seconds: int = Field(
        default=60,
        ge=1,
        le=3_600,
        description="How long reading one document here may take: in the local engine, or before AnythingLLM.",
    )
    parser_max_bytes: int = Field(
        default=1024 * 1024 * 1024,
        ge=64 * 1024 * 1024,
        description="The most memory that reading one document here may take, in bytes.",
    )
    engine_outage_hours: float = Field(
        default=24.0,
        gt=0,
        le=8_760,
        description="How long a job waits for an engine or a storage that is away, uncounted, before it fails.",
    )
    anythingllm_url: Annotated[str | None, BeforeValidator(blank_is_unset)] = Field(
        default=None,
        description=(
            "Base URL of AnythingLLM's API, as http://host:3001/api. Unset: the local engine, without AnythingLLM."
        ),
    )
    anythingllm_api_key: Annotated[SecretStr | None, BeforeValidator(blank_is_unset)] = Field(
        default=None, description="A key of AnythingLLM's developer API. Needed with ANYTHINGLLM_URL."
    )
    anythingllm_timeout: float = Field(
        default=30.0,
        gt=0,
        le=3_600,
        description="How long a call of AnythingLLM may take that does no long work.",
    )
    anythingllm_embed_timeout: float = Field(
        default=600.0, gt=0, le=86_400, description="How long embedding a document or one answer may take."
    )
    anythingllm_uploads: int = Field(
        default=2,
        ge=1,
        le=1_000,
        description="Uploads to AnythingLLM at a time, over all workers. It reads one at a time; more only wait there.",
    )
    anythingllm_embeddings: int = Field(
        default=4, ge=1, le=1_000, description="Documents that AnythingLLM embeds at a time, over all workers."
    )

    anythingllm_rebuild: bool = Field(
        default=False,
        description=(
            "Rebuild a workspace by itself when vectors of no document are seen in it. Its chats and threads go: "
            "without this a person says so, with `worker workspaces rebuild NAME`."
        ),
    )

    anythingllm_convert: Convert = Field(
        default=Convert.AUTO,
        description=(
            "Which documents become Markdown before AnythingLLM gets them, if the extra local is installed. auto: web "
            "pages, and what it cannot read (mail, RTF, old office formats). always: every format. never: none; scans "
            "and locked files are sent as well."
        ),
    )

    @field_validator("anythingllm_url")
    @classmethod
    def _is_a_web_address(cls, url: str | None) -> str | None:
        if url is not None and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname):
            raise ValueError("must begin with http:// or https:// and name a host")
        return None if url is None else without_credentials(url, "ANYTHINGLLM_API_KEY")

    @model_validator(mode="after")
    def _a_server_needs_a_key(self) -> Self:
        if self.anythingllm_url is not None and self.anythingllm_api_key is None:
            raise ValueError("ANYTHINGLLM_API_KEY is not set: make a key in AnythingLLM under Settings, Developer API")
        return self

    @property
    def engine_name(self) -> str:
        """What the record calls the engine that these settings choose."""
        return "local" if self.anythingllm_url is None else "anythingllm"
