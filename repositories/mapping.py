"""How tables are mapped: the base class of every model, PostgreSQL's type for each of Python's, constraint names."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Enum, MetaData, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase

from repositories.states import DocumentState, ItemStatus, JobStatus

# A constraint is named for its rule, so that an error can be told by its name.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def one_of(column: str, values: type[JobStatus | ItemStatus | DocumentState]) -> str:
    """The rule that a column of one of the three enums holds one of its states, for a CHECK."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def _text_enum(values: type[JobStatus | ItemStatus | DocumentState]) -> Enum:
    """Text in the database, so that a new state needs no ALTER TYPE; the enum in Python. A CHECK bounds it."""
    return Enum(
        values,
        native_enum=False,
        create_constraint=False,
        length=16,
        values_callable=lambda enum: [str(v) for v in enum],
    )


STATUS = _text_enum(JobStatus)
ITEM_STATUS = _text_enum(ItemStatus)
DOCUMENT_STATE = _text_enum(DocumentState)


class Base(DeclarativeBase):
    """Maps plain Python types to PostgreSQL's: text without length, times with zone, JSON as jsonb."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own way of setting it
        str: Text,
        datetime: TIMESTAMP(timezone=True),
        UUID: Uuid,
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
        list[UUID]: ARRAY(Uuid),
        list[str]: ARRAY(Text),
        JobStatus: STATUS,
        ItemStatus: ITEM_STATUS,
        DocumentState: DOCUMENT_STATE,
    }
