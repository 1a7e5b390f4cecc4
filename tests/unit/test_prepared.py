"""Statements that are compiled once: their text must hold for every call."""

from typing import Any

import pytest
from sqlalchemy import Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.models import Job
from repositories.prepared import Prepared


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(select(Job.id).where(Job.id.in_(bindparam("ids", expanding=True))), id="a list of parameters"),
        pytest.param(select(Job.id).where(Job.queue == bindparam("queue", literal_execute=True)), id="a value"),
    ],
)
def test_a_statement_whose_text_depends_on_its_values_is_refused(statement: Select[Any]) -> None:
    with pytest.raises(ValueError, match="written into its text"):
        Prepared(statement)


async def test_a_parameter_that_was_forgotten_is_an_error_and_not_a_null() -> None:
    statement = Prepared(select(Job.id).where(Job.queue == bindparam("queue"), Job.priority == 5))

    with pytest.raises(KeyError, match="queue"):
        await statement.rows(AsyncSession(), {})
