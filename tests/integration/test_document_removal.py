"""Marking documents as being removed: who may, whose it is then, and that nobody counts on what is marked."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from repositories.database import DatabaseManager
from repositories.documents import REMOVAL_LOCK, DocumentRepository, Reservation
from repositories.locks import Locks
from repositories.migrations import downgrade, upgrade
from repositories.schemas import Held
from repositories.states import DocumentState, JobStatus
from repositories.workspaces import WorkspaceRepository
from tests.desk import ABANDONED, BUSY, HELD, MINE, WAITING, Desk, sha256, workspace
from tests.factories import expire_lease
from tests.waiting import until

LONG_AGO = "UPDATE workspace_documents SET removing_at = now() - interval '1 hour'"


@pytest.fixture
async def desk(session: AsyncSession) -> Desk:
    return Desk(session, await workspace(session))


async def removing(desk: Desk, *contents: str) -> tuple[Held, list[int]]:
    """A job that is removing documents of an older one, which are called as they begin."""
    older, remover = await desk.job(len(contents)), await desk.job()
    for at, content in enumerate(contents):
        await desk.store(older, at, content, f"{content}.md")
    marked = await desk.documents.begin_removal(remover, await desk.documents.of_job(older.job_id))
    assert len(marked) == len(contents)
    return remover, [removal.id for removal in marked]


# Who may


async def test_what_is_marked_stands_for_nobody_until_it_is_forgotten(desk: Desk, statements: list[str]) -> None:
    remover, ids = await removing(desk, "hours")
    other = await desk.job()

    assert await desk.names() == []
    assert (await desk.documents.plan(desk.workspace_id, [("x.md", sha256("hours"))])).documents[0].verdict == "new"
    assert (await desk.reserve(other)).outcome is BUSY
    assert (await desk.reserve(other, allow_copy=True)).outcome is BUSY
    statements.clear()
    assert await desk.documents.forget_removed(remover, ids) == 1
    assert (await desk.reserve(other)).outcome is MINE
    assert len(statements) == 2, statements


async def test_what_a_newer_job_found_is_not_marked_by_an_older_one(desk: Desk) -> None:
    first, older, newer, newest = [await desk.job() for _ in range(4)]
    await desk.store(first, 0, "hours", "hours.md")
    seen = await desk.documents.of_job(first.job_id)
    assert (await desk.reserve(newer)).outcome is HELD
    assert (await desk.reserve(older, 1)).outcome is HELD, "the newest one counts, not the last"

    assert await desk.documents.begin_removal(older, seen) == []
    assert await desk.documents.superseded(desk.workspace_id, older.job_id, []) == []
    assert [removal.name for removal in await desk.documents.begin_removal(newest, seen)] == ["hours.md"]


@pytest.mark.parametrize("found", [{"name": "copy.md"}, {"source": "elsewhere"}])
async def test_what_is_found_by_another_name_or_source_is_marked_by_nobody(desk: Desk, found: dict[str, str]) -> None:
    first, other, newest = [await desk.job() for _ in range(3)]
    await desk.store(first, 0, "hours", "hours.md")
    seen = await desk.documents.of_job(first.job_id)
    assert (await desk.reserve(other, 0, "hours", **found)).outcome is HELD

    assert await desk.documents.begin_removal(newest, seen) == []
    assert await desk.names() == ["hours.md"]


async def test_a_whole_set_renames_what_it_found_under_another_name_once(desk: Desk) -> None:
    first, syncing, newest = [await desk.job() for _ in range(3)]
    await desk.store(first, 0, "hours", "hours.md", source="folder")
    seen = await desk.documents.of_job(first.job_id)
    for position, name in enumerate(("new.md", "twin.md")):
        found = await desk.reserve(syncing, position, "hours", name, source="folder", whole=True)
        assert found.outcome is HELD

    assert await desk.names() == ["new.md"]
    (row,) = await desk.documents.standing(desk.workspace_id)
    assert row.shared is False
    assert await desk.documents.begin_removal(syncing, seen) == [], "it relies on it itself"
    assert await desk.documents.gone(desk.workspace_id, "folder", [], newest.job_id) == [row]


async def test_what_was_renamed_since_it_was_read_is_not_marked(desk: Desk) -> None:
    first, newest = await desk.job(), await desk.job()
    await desk.store(first, 0, "hours", "hours.md")
    (seen,) = await desk.documents.of_job(first.job_id)
    desk.session.expunge(seen)
    await desk.session.execute(text("UPDATE workspace_documents SET name = 'other.md'"))

    assert await desk.documents.begin_removal(newest, [seen]) == []


async def test_a_lost_attempt_marks_nothing_and_the_next_one_goes_on(desk: Desk) -> None:
    lost, ids = await removing(desk, "hours", "prices")
    held = await desk.again(lost)

    assert await desk.documents.begin_removal(lost, []) == []
    assert sorted(removal.id for removal in await desk.documents.begin_removal(held, [])) == sorted(ids)

    assert await desk.documents.forget_removed(lost, ids) == 0, "it is not its to forget any more"
    assert await desk.documents.begin_removal(held, []) == [], "it has them already"
    assert await desk.documents.forget_removed(held, ids) == 2


async def test_what_the_engine_has_no_more_is_left_to_its_remover(desk: Desk) -> None:
    remover, ids = await removing(desk, "hours")
    other = await desk.job()

    assert await desk.documents.forget_missing(other, desk.workspace_id, []) == []

    assert await desk.documents.forget_removed(remover, ids) == 1


async def test_a_lost_attempt_drops_nothing_that_the_engine_lacks(desk: Desk) -> None:
    lost = await desk.job()
    await desk.store(lost, 0, "hours", "hours.md")
    await desk.again(lost)

    assert await desk.documents.forget_missing(lost, desk.workspace_id, []) == []
    assert await desk.names() == ["hours.md"]


# A remover that ended


@pytest.mark.parametrize("end", [JobStatus.FAILED, JobStatus.CANCELLED, "lost", "lost and claimed", "deleted"])
async def test_who_wants_a_content_takes_over_the_removal_of_one_that_ended(desk: Desk, end: str) -> None:
    dead, ids = await removing(desk, "hours")
    other = await desk.job()
    await desk.leave(dead, end, LONG_AGO)

    left = await desk.reserve(other)
    assert (left.outcome, left.document_id, left.locations) == (ABANDONED, ids[0], ("place-hours.md-hours",))
    assert (await desk.reserve(await desk.job())).outcome is BUSY, "it has a remover again"
    assert await desk.documents.forget_removed(dead, ids) == 0
    assert await desk.documents.forget_removed(other, ids) == 1
    assert (await desk.reserve(other)).outcome is MINE


async def test_an_item_waits_for_the_removal_of_its_own_document_as_well(desk: Desk) -> None:
    first, remover = await desk.job(), await desk.job()
    await desk.store(first, 0, "hours", "hours.md")
    marked = await desk.documents.begin_removal(remover, await desk.documents.of_job(first.job_id))
    again = await desk.again(first)

    assert (await desk.reserve(again)).outcome is BUSY
    assert await desk.documents.store(again, 0, ["late"]) is False, "what is being removed cannot be confirmed"
    assert await desk.documents.release(again, 0) is False
    await desk.again(remover)
    left = await desk.reserve(again)
    assert (left.outcome, left.document_id) == (ABANDONED, marked[0].id)
    await desk.documents.forget_removed(again, [marked[0].id])
    assert await desk.reserve(again) == Reservation(MINE, "hours.md", again.job_id)


async def test_a_copy_holds_the_content_while_the_first_is_removed(desk: Desk) -> None:
    first, copying, remover, other = [await desk.job() for _ in range(4)]
    await desk.store(first, 0, "hours", "hours.md")
    await desk.store(copying, 0, "hours", "copy.md", allow_copy=True)
    await desk.documents.begin_removal(remover, await desk.documents.of_job(first.job_id))
    await desk.again(remover)

    assert (await desk.reserve(other)).name == "copy.md"
    assert (await desk.reserve(other, 1, allow_copy=True)).is_copy


async def test_a_content_whose_last_copy_is_being_removed_is_stored_at_once(desk: Desk) -> None:
    first, copying, remover, other = [await desk.job() for _ in range(4)]
    await desk.store(first, 0, "hours", "hours.md")
    await desk.store(copying, 0, "hours", "copy.md", allow_copy=True)
    for job in (first, copying):
        await desk.documents.begin_removal(remover, await desk.documents.of_job(job.job_id))
    (removed,) = await desk.documents.of_job(first.job_id)
    await desk.documents.forget_removed(remover, [removed.id])

    assert await desk.reserve(other) == Reservation(MINE, "hours.md", other.job_id)


async def test_what_nobody_finishes_is_adopted_by_who_holds_a_lock(
    database: DatabaseManager,
) -> None:
    async with database.get_transaction() as session:
        desk = Desk(session, await workspace(session))
        dead, ids = await removing(desk, "hours", "prices")
        elsewhere = Desk(session, (await WorkspaceRepository(session, "other").register("Shop", "shop")).id)
        await removing(elsewhere, "far")
    async with database.get_transaction() as session:
        desk = Desk(session, desk.workspace_id)
        assert await desk.documents.abandoned("local") == []
        await desk.again(dead)
        left = await desk.documents.abandoned("local")
        assert [(one.id, one.workspace_id, one.slug) for one in left] == [
            (at, desk.workspace_id, "shop") for at in sorted(ids)
        ]
        assert len(await desk.documents.abandoned("local", limit=1)) == 1

    remover, other = Held(uuid4(), 1), Held(uuid4(), 1)
    async with Locks(database).hold(f"{REMOVAL_LOCK}{remover.job_id}"):
        async with database.get_transaction() as session:
            assert len(await DocumentRepository(session).adopt(remover, ids)) == 2
            await session.execute(text(LONG_AGO))
        async with database.get_transaction() as session:
            assert await DocumentRepository(session).adopt(other, ids) == []
    async with database.get_transaction() as session:
        assert len(await DocumentRepository(session).adopt(other, ids)) == 2, "the lock was given back"
        assert await DocumentRepository(session).forget_removed(remover, ids) == 0
        assert await DocumentRepository(session).forget_removed(other, ids) == 2


# At the same moment


async def someone_waits(database: DatabaseManager) -> None:
    async with database.get_autocommit() as looking:

        async def is_so() -> bool:
            return bool(await looking.scalar(text(WAITING)))

        await until(is_so)


@pytest.fixture
async def older(database: DatabaseManager) -> tuple[int, Held]:
    """A workspace, and the job that stored ``hours.md`` in it."""
    async with database.get_transaction() as session:
        desk = Desk(session, await workspace(session))
        held = await desk.job()
        await desk.store(held, 0, "hours", "hours.md")
    return desk.workspace_id, held


async def test_who_finds_a_content_as_it_is_marked_waits_for_its_removal(
    database: DatabaseManager, older: tuple[int, Held]
) -> None:
    async with database.get_transaction() as session:
        remover, other = [await Desk(session, older[0]).job() for _ in range(2)]

    async def find() -> Reservation:
        async with database.get_autocommit() as own:
            return await Desk(own, older[0]).reserve(other, name="copy.md")

    async with database.get_transaction() as session:
        documents = DocumentRepository(session)
        assert len(await documents.begin_removal(remover, await documents.of_job(older[1].job_id))) == 1
        finding = asyncio.create_task(find())
        await someone_waits(database)

    assert (await asyncio.wait_for(finding, 10)).outcome is BUSY


async def test_what_is_found_by_another_name_at_that_moment_is_not_marked(
    database: DatabaseManager, older: tuple[int, Held]
) -> None:
    async with database.get_transaction() as session:
        remover, other = [await Desk(session, older[0]).job() for _ in range(2)]

    async def mark() -> int:
        async with database.get_transaction() as own:
            documents = DocumentRepository(own)
            return len(await documents.begin_removal(remover, await documents.of_job(older[1].job_id)))

    async with database.get_transaction() as session:
        assert (await Desk(session, older[0]).reserve(other, name="copy.md")).outcome is HELD
        marking = asyncio.create_task(mark())
        await someone_waits(database)

    assert await asyncio.wait_for(marking, 10) == 0


async def test_of_many_that_want_an_abandoned_content_one_finishes_its_removal(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        desk = Desk(session, await workspace(session))
        dead, _ = await removing(desk, "hours")
        holders = [await desk.job() for _ in range(10)]
        await expire_lease(session, dead.job_id)
        await desk.jobs.rescue()
    start = asyncio.Barrier(len(holders))

    async def want(held: Held) -> str:
        async with database.get_transaction() as own:
            await own.execute(text("SELECT 1"))
            await start.wait()
            return (await Desk(own, desk.workspace_id).reserve(held)).outcome

    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(*map(want, holders))

    assert sorted(outcomes) == sorted([ABANDONED] + [BUSY] * 9)


async def test_many_that_mark_find_and_drop_at_once_do_not_deadlock(
    database: DatabaseManager,
) -> None:
    names = [f"{at}.md" for at in range(60)]
    async with database.get_transaction() as session:
        desk = Desk(session, await workspace(session))
        first = await desk.job(len(names))
        for at, name in enumerate(names):
            await desk.store(first, at, name, name)
        jobs = [await desk.job(1) for _ in range(12)]

    async def mark(held: Held, *, backwards: bool) -> int:
        async with database.get_transaction() as own:
            rows = await DocumentRepository(own).of_job(first.job_id)
            return len(await DocumentRepository(own).begin_removal(held, rows[::-1] if backwards else rows))

    async def find(held: Held) -> int:
        for name in names[::-1]:
            async with database.get_autocommit() as own:
                await Desk(own, desk.workspace_id).reserve(held, 0, name, name)
        return 0

    async def drop(held: Held) -> int:
        async with database.get_transaction() as own:
            await DocumentRepository(own).forget_missing(held, desk.workspace_id, [])
        async with database.get_transaction() as own:
            await WorkspaceRepository(own, "local").rename_slug("Shop", "shop")
        return 0

    work = [mark(held, backwards=at % 2 == 0) for at, held in enumerate(jobs[:8])]
    async with asyncio.timeout(30):
        marked = await asyncio.gather(*work, find(jobs[8]), find(jobs[9]), drop(jobs[10]), drop(jobs[11]))

    assert sum(marked) <= len(names)


# The step


@pytest.fixture
async def empty(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    async with DatabaseManager(empty_database_url) as manager:
        yield manager.engine


async def test_on_the_way_down_what_is_being_removed_counts_as_stored(empty: AsyncEngine) -> None:
    await upgrade(empty)
    async with DatabaseManager(empty.url.render_as_string(hide_password=False)) as database:
        async with database.get_transaction() as session:
            desk = Desk(session, await workspace(session))
            await removing(desk, "hours")
            await desk.reserve(await desk.job(), 0, "prices", "prices.md")

        await downgrade(empty, "0007")
        async with empty.begin() as connection:
            states = await connection.execute(text("SELECT name, state FROM workspace_documents ORDER BY name"))
            assert [tuple(row) for row in states] == [("hours.md", "stored"), ("prices.md", "reserved")]
        await upgrade(empty)

        async with database.get_session() as session:
            (row,) = await DocumentRepository(session).standing(desk.workspace_id)
    assert (row.state, row.remover_id, row.found_by) == (DocumentState.STORED, None, None)
