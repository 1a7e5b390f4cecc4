"""Settings of documents: where their bytes are kept, where they may come from, and how large they may be."""

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from repositories.settings import blank_is_unset, without_credentials

MIB = 1024 * 1024


class StorageType(StrEnum):
    """Where uploaded bytes are kept, for whoever names a bucket instead of a URL."""

    LOCAL = "local"
    S3 = "s3"


def split(value: object) -> object:
    """A list as the environment has it: names separated by commas."""
    return tuple(filter(None, (name.strip() for name in value.split(",")))) if isinstance(value, str) else value


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)]


class DocumentSettings(BaseSettings):
    """What a document may be, and where it may come from."""

    storage_url: str = Field(
        default="storage",
        min_length=1,
        validation_alias=AliasChoices("STORAGE_URL", "STORAGE_PATH"),
        description=(
            "Where uploaded bytes are kept for the workers: a folder that every worker sees, or a URL that "
            "obstore knows (s3://, gs://, az://)."
        ),
    )
    storage_type: StorageType = Field(
        default=StorageType.LOCAL,
        description="Where bytes are kept if STORAGE_URL is not set: local, or s3 in S3_BUCKET.",
    )
    s3_bucket: Annotated[str | None, BeforeValidator(blank_is_unset)] = Field(
        default=None, max_length=255, description="The bucket of STORAGE_TYPE=s3."
    )
    s3_region: Annotated[str | None, BeforeValidator(blank_is_unset)] = Field(
        default=None, max_length=64, description="The region of that bucket. Unset: as the AWS variables say."
    )
    aws_access_key_id: Annotated[SecretStr | None, BeforeValidator(blank_is_unset)] = Field(
        default=None, description="The key for that bucket. Unset: whatever the machine has."
    )
    aws_secret_access_key: Annotated[SecretStr | None, BeforeValidator(blank_is_unset)] = Field(
        default=None, description="The secret of AWS_ACCESS_KEY_ID."
    )
    max_file_bytes: int = Field(
        default=100 * MIB,
        ge=1,
        le=1024 * MIB,
        validation_alias=AliasChoices("MAX_FILE_BYTES", "MAX_FILE_SIZE"),
        description="The largest document that is taken, in bytes. An archive may have MAX_ARCHIVE_BYTES.",
    )
    allowed_file_types: Listed = Field(
        default=(),
        max_length=200,
        description="Endings of the documents that are taken, separated by commas (pdf,docx). Unset: all.",
    )
    max_archive_entries: int = Field(default=10_000, ge=1, le=100_000, description="The most files of one archive.")
    max_archive_bytes: int = Field(
        default=1024 * MIB, ge=1, description="The most bytes of an archive, and of all that is in it once unpacked."
    )
    max_archive_ratio: int = Field(
        default=200, ge=2, description="The most that a file of an archive may grow when unpacked, times."
    )
    max_archive_depth: int = Field(
        default=3, ge=1, le=10, description="Archives one inside the other, the outermost counted."
    )
    max_archive_seconds: float = Field(
        default=600.0, gt=0, le=86_400, description="How long one archive may take to read."
    )
    object_sources: Listed = Field(
        default=(),
        max_length=100,
        description=(
            "URL prefixes that documents may be read from (s3://bucket/inbox/, gs://, az://, file:///srv/inbox/), "
            "separated by commas. Unset: none."
        ),
    )
    link_timeout_seconds: float = Field(
        default=120.0, gt=0, le=3_600, description="How long fetching one link may take."
    )
    link_allow_private: Listed = Field(
        default=(),
        max_length=100,
        description=(
            "Networks that links may lead to although they are not public (10.1.0.0/16), separated by commas. "
            "Unset: none."
        ),
    )

    @field_validator("storage_url", "object_sources")
    @classmethod
    def _hold_no_secret(cls, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for url in (given,) if isinstance(given, str) else given:
            without_credentials(url, "AWS_ACCESS_KEY_ID and the like")
        return given

    @field_validator("link_allow_private")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)  # its own message names what is wrong
        return networks

    @field_validator("allowed_file_types")
    @classmethod
    def _as_endings(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f".{ending.lower().lstrip('.')}" for ending in types)

    @model_validator(mode="after")
    def _a_bucket_is_a_url(self) -> Self:
        if self.storage_type is StorageType.S3 and "storage_url" not in self.model_fields_set:
            if self.s3_bucket is None:
                raise ValueError("S3_BUCKET is not set: STORAGE_TYPE=s3 needs it, or set STORAGE_URL instead")
            self.storage_url = f"s3://{self.s3_bucket}"
        return self

    @property
    def storage_options(self) -> dict[str, str]:
        """What the storage is told besides its URL; it holds secrets."""
        given = {
            "region": self.s3_region,
            "access_key_id": self.aws_access_key_id and self.aws_access_key_id.get_secret_value(),
            "secret_access_key": self.aws_secret_access_key and self.aws_secret_access_key.get_secret_value(),
        }
        return {name: value for name, value in given.items() if value} if self.storage_url.startswith("s3:") else {}

    @property
    def private_networks(self) -> list[IPv4Network | IPv6Network]:
        """``LINK_ALLOW_PRIVATE`` as networks."""
        return [ip_network(network) for network in self.link_allow_private]
