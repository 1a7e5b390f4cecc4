"""A lane: one connection for the same statements all day, and the claims and ends that workers send over it."""

import asyncio
from collections.abc import AsyncIterator
from copy import copy
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Integer, Text, bindparam, cast, func, literal_column, select, text
from sqlalchemy.exc import InterfaceError

from repositories.database import DatabaseManager
from repositories.errors import ConflictError, DatabaseUnavailableError, InvalidValueError
from repositories.jobs import DirectJobs, JobRepository
from repositories.jobs.claim import claim_parameters, claim_statement
from repositories.jobs.core import as_arrays
from repositories.jobs.finish import complete_statement
from repositories.lane import TRUST_SECONDS, Lane
from repositories.prepared import Prepared
from repositories.schemas import Held, NewJob
from repositories.states import JobStatus
from tests.factories import LEASE, queued_jobs

_NUMBER = Prepared(select(cast(bindparam("number", type_=Integer), Integer)))
_BACKEND = Prepared(select(func.pg_backend_pid()))
_UNHEARD_OF = Prepared(
    text("INSERT INTO jobs (id, type, status) VALUES ('00000000-0000-0000-0000-000000000001', 'noop', 'unheard of')")
)
_NAP = Prepared(select(func.pg_sleep(60)))


@pytest.fixture
async def lane(database: DatabaseManager) -> AsyncIterator[Lane]:
    async with database.lane() as lane:
        yield lane


async def _backend(lane: Lane) -> int:
    return int((await lane.rows(_BACKEND, {}))[0][0])


async def _queued(database: DatabaseManager, count: int, **fields: Any) -> list[UUID]:
    async with database.get_transaction() as session:
        return [job.id for job in await queued_jobs(JobRepository(session), count, **fields)]


async def _end(database: DatabaseManager, backend: int) -> None:
    async with database.get_session() as session:
        assert await session.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": backend})


async def test_every_statement_goes_over_the_same_connection_and_none_of_the_pool_is_taken(database_url: str) -> None:
    async with DatabaseManager(database_url, pool_size=1, max_overflow=0) as small, small.lane() as lane:
        assert await _backend(lane) == await _backend(lane)
        async with asyncio.timeout(5), small.get_session() as session:  # would wait for the pool's only connection
            assert await session.scalar(text("SELECT 1")) == 1


async def test_a_connection_that_was_lost_while_it_lay_idle_is_replaced_and_nobody_hears_of_it(
    database: DatabaseManager, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await _backend(lane)
    await _end(database, before)
    monkeypatch.setattr("repositories.lane.TRUST_SECONDS", 0.0)

    assert await _backend(lane) != before


async def test_a_connection_that_lay_idle_and_still_stands_is_kept(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await _backend(lane)
    monkeypatch.setattr("repositories.lane.TRUST_SECONDS", 0.0)
    monkeypatch.setattr("repositories.lane._READY_SECONDS", 0.0)

    await lane.stay_ready()

    assert await _backend(lane) == before


async def test_a_connection_that_is_lost_in_use_is_an_outage_and_the_next_statement_has_another(
    database: DatabaseManager, lane: Lane
) -> None:
    backend = await _backend(lane)
    asked = asyncio.create_task(lane.rows(_NAP, {}))
    async with database.get_session() as session:
        sleeping = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'PgSleep'")
        async with asyncio.timeout(10):
            while not await session.scalar(sleeping, {"pid": backend}):
                await session.rollback()
    await _end(database, backend)

    with pytest.raises(DatabaseUnavailableError):
        await asked
    assert await _backend(lane) != backend


async def test_a_statement_that_was_cancelled_leaves_its_answer_to_nobody(lane: Lane) -> None:
    backend = await _backend(lane)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await lane.rows(_NAP, {})

    assert await _backend(lane) != backend
    assert (await lane.rows(_NUMBER, {"number": 7}))[0][0] == 7


async def test_a_lane_that_stays_ready_has_its_connection_before_it_is_needed(
    database: DatabaseManager, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await _backend(lane)
    await _end(database, before)
    monkeypatch.setattr("repositories.lane._READY_SECONDS", 0.0)

    await lane.stay_ready()

    assert TRUST_SECONDS > 1
    assert await _backend(lane) != before


async def test_a_statement_that_was_refused_costs_no_connection_and_is_told_as_an_error_of_ours(lane: Lane) -> None:
    backend = await _backend(lane)

    with pytest.raises(InvalidValueError):
        await lane.rows(_NUMBER, {"number": "seven"})
    with pytest.raises(InvalidValueError):
        await lane.rows(Prepared(select(cast(literal_column("'seven'::text", Text), Integer))), {})
    with pytest.raises(ConflictError):
        await lane.rows(_UNHEARD_OF, {})

    assert await _backend(lane) == backend


async def test_a_statement_is_prepared_anew_when_a_migration_changed_what_it_returns(
    database: DatabaseManager, lane: Lane
) -> None:
    async with database.get_transaction() as session:
        await session.execute(text("CREATE TABLE places (number integer)"))
        await session.execute(text("INSERT INTO places VALUES (1)"))
    everything = Prepared(text("SELECT number FROM places"))
    assert (await lane.rows(everything, {}))[0][0] == 1
    async with database.get_transaction() as session:
        await session.execute(text("ALTER TABLE places ALTER number TYPE text USING 'one'"))

    assert (await lane.rows(everything, {}))[0][0] == "one"


async def test_a_server_that_is_not_there_is_told_as_away() -> None:
    async with DatabaseManager("postgresql+asyncpg://nobody@127.0.0.1:1/nothing") as nowhere, nowhere.lane() as lane:
        with pytest.raises(DatabaseUnavailableError):
            await lane.rows(_BACKEND, {})
        with pytest.raises(DatabaseUnavailableError):
            await lane.stay_ready()


async def test_a_server_that_hangs_up_while_one_connects_is_told_as_away() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(b"N")  # no TLS
        await reader.read(1_000)  # who it is and what it wants
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql+asyncpg://nobody@127.0.0.1:{port}/nothing"
        async with DatabaseManager(url) as starting, starting.lane() as lane:
            with pytest.raises(DatabaseUnavailableError):
                await lane.rows(_BACKEND, {})


async def test_a_url_that_the_driver_cannot_read_is_neither_an_outage_nor_a_bad_value() -> None:
    url = "postgresql+asyncpg://nobody@127.0.0.1:1/nothing?ssl=unheard-of"
    async with DatabaseManager(url) as misread, misread.lane() as lane:
        with pytest.raises(InterfaceError, match="sslmode"):
            await lane.rows(_BACKEND, {})


async def test_a_claim_over_a_lane_starts_what_the_repository_would_start(
    database: DatabaseManager, lane: Lane
) -> None:
    ids = await _queued(database, 3, type="noop")
    (strange,) = await _queued(database, 1, type="of-a-newer-version")

    claimed = await DirectJobs(lane).claim([*ids, strange], "worker-1", LEASE, ["noop"])

    assert {job.id for job in claimed} == set(ids)
    assert {(job.attempt, job.worker_id) for job in claimed} == {(1, "worker-1")}
    async with database.get_session() as session:
        jobs = JobRepository(session)
        assert {(await jobs.get_by_id_or_raise(job_id)).status for job_id in ids} == {JobStatus.PROCESSING}
        assert (await jobs.get_by_id_or_raise(strange)).status is JobStatus.QUEUED
        assert await jobs.claim(ids, "worker-2", LEASE) == []


async def test_an_end_over_a_lane_completes_only_what_the_attempt_owns_and_nobody_waits_for(
    database: DatabaseManager, lane: Lane
) -> None:
    mine, parent, lost = await _queued(database, 3, type="noop")
    async with database.get_transaction() as session:
        await JobRepository(session).create_many([NewJob(type="noop", payload={}, depends_on=[parent])])
    direct = DirectJobs(lane)
    await direct.claim([mine, parent, lost], "worker-1", timedelta(seconds=30), ["noop"])

    outcome = await direct.complete([Held(mine, 1), Held(parent, 1), Held(lost, 2)], [{"n": 1}, {}, {}])

    assert outcome.moved == {mine: JobStatus.COMPLETED}
    assert [change.job_id for change in outcome.changes] == [mine]
    assert (outcome.released, outcome.refused) == ([], {})
    async with database.get_session() as session:
        jobs = JobRepository(session)
        completed = await jobs.get_by_id_or_raise(mine)
        assert (completed.status, completed.result, completed.progress) == (JobStatus.COMPLETED, {"n": 1}, 100.0)
        assert (await jobs.get_by_id_or_raise(parent)).status is JobStatus.PROCESSING
        assert (await jobs.get_by_id_or_raise(lost)).status is JobStatus.PROCESSING


_CLAIM = (claim_statement(typed=True, admitted=False), claim_parameters([], "w", LEASE, ["noop"]))
_COMPLETION = (complete_statement(childless=True), as_arrays([], result=[]))


@pytest.mark.own_database  # whose table of jobs never had a row
@pytest.mark.parametrize(("statement", "parameters"), [_CLAIM, _COMPLETION], ids=["claim", "completion"])
async def test_what_is_planned_while_the_table_is_empty_still_finds_its_rows_by_key_when_it_is_full(
    lane: Lane, statement: Prepared, parameters: dict[str, Any]
) -> None:
    explained = copy(statement)
    explained.text = f"EXPLAIN {statement.text}"

    plan = "\n".join(row[0] for row in await lane.rows(explained, parameters))

    assert "Scan using pk_jobs on jobs" in plan
    assert "Seq Scan on jobs" not in plan
