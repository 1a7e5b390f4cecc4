"""The table of :mod:`repositories.locks`: who holds which lock, and until when."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from repositories.mapping import Base

LONGEST_LOCK_NAME = 255
"""Characters of a lock's name."""


class Lock(Base):
    """A lock that is held, or was held by somebody who died: a lock that was given back has no row."""

    __tablename__ = "locks"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[UUID]
    expires_at: Mapped[datetime]

    __table_args__ = (CheckConstraint(f"length(name) BETWEEN 1 AND {LONGEST_LOCK_NAME}", name="name_length"),)
