"""What an edit may write: values by the columns' public names, as columns take them, and the stamps every edit leaves.

The part of a repository that sends nothing. A subclass that protects a column refuses in :meth:`Editing._edits`, where
every edit of existing rows asks.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import func, inspect
from sqlalchemy.orm import InstrumentedAttribute

from repositories.errors import InvalidValueError, ProtectedFieldError
from repositories.filters import field_of
from repositories.pagination import Listing, ModelT


class Editing(Listing[ModelT]):
    """Reads what callers give as keys and values of one model."""

    def _edits(self, obj_in: BaseModel | Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """What an edit writes, by attribute. Every edit of existing rows asks here, so a subclass refuses in one place.

        Raises:
            InvalidValueError: there is no such column.
            ProtectedFieldError: the key or the version is among them.
        """
        given = obj_in.model_dump(exclude_unset=True) if isinstance(obj_in, BaseModel) else dict(obj_in)
        new = self._by_attribute({**given, **extra})
        if self._key.key in new:
            raise ProtectedFieldError(self._kind, self._key_field.name, "create another row and delete this one")
        if self._versioned is not None and "version" in new:
            raise ProtectedFieldError(
                self._kind, "version", "update(..., version=) compares it, and each edit adds one"
            )
        return new

    def _attributes(self, obj_in: BaseModel | Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """What a new row is made of, by attribute: the schema's own defaults count, an unset ``None`` does not."""
        if isinstance(obj_in, BaseModel):
            unset = obj_in.__class__.model_fields.keys() - obj_in.model_fields_set
            given = {name: v for name, v in obj_in.model_dump().items() if v is not None or name not in unset}
        else:
            given = dict(obj_in)
        return self._by_attribute({**given, **extra})

    def _by_attribute(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Attribute names for public names: what a caller calls ``metadata`` is ``job_metadata`` on a mapped class."""
        return {field_of(self.model, name, InvalidValueError).attribute.key: value for name, value in given.items()}

    def _stamps(self) -> dict[str, Any]:
        """What every edit writes besides its values."""
        columns = inspect(self.model).columns
        stamps: dict[str, Any] = {"version": self._versioned + 1} if self._versioned is not None else {}
        return stamps | ({"updated_at": func.clock_timestamp()} if "updated_at" in columns else {})

    @property
    def _versioned(self) -> InstrumentedAttribute[int] | None:
        model: Any = self.model
        version: InstrumentedAttribute[int] | None = model.version if "version" in inspect(model).columns else None
        return version

    @staticmethod
    def _version_of(row: Any) -> int:
        version: int = row.version
        return version

    @property
    def _kind(self) -> str:
        return self.model.__name__.lower()

    def _as_keys(self, ids: Sequence[Any]) -> list[Any]:
        return [key for key in map(self._as_key, ids) if key is not None]

    def _as_key(self, id: Any) -> Any:  # noqa: A002 - the public name of the parameter
        """Return ``id`` as the key's type, or ``None`` if it cannot be one: such an id is simply not found."""
        kind = self._key.type.python_type
        if kind is UUID:
            return as_uuid(id)
        try:
            return self._key_field.value(int(id) if kind is int and isinstance(id, str) else id)
        except ValueError:
            return None


def as_uuid(value: Any) -> UUID | None:
    """Return ``value`` as a UUID, or ``None`` if it is not one."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except ValueError:
        return None
