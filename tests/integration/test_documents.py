"""What stands in a workspace: one content once, however many bring it, and only by the attempt that owns the job."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from repositories.database import DatabaseManager
from repositories.documents import (
    MAX_PAGE,
    DocumentRepository,
    Plan,
    Reference,
    Reservation,
    ReservationOutcome,
    Verdict,
)
from repositories.errors import ConflictError, InvalidValueError
from repositories.migrations import downgrade, upgrade
from repositories.schemas import MAX_ITEMS, Finish, Held
from repositories.states import DocumentState, ItemStatus, JobStatus
from repositories.workspaces import WorkspaceRepository
from tests.desk import BUSY, HELD, LOST, MINE, WAITING, Desk, sha256, workspace
from tests.factories import LEASE, expire_lease, hold
from tests.waiting import until


@pytest.fixture
async def desk(session: AsyncSession) -> Desk:
    return Desk(session, await workspace(session))


# One content


async def test_a_content_is_reserved_stored_and_then_held_for_everybody_else(desk: Desk) -> None:
    first, other = await desk.job(), await desk.job()
    assert await desk.reserve(first) == Reservation(MINE, "hours.md", first.job_id)
    assert await desk.reserve(other, name="copy.md") == Reservation(BUSY, "hours.md", first.job_id)
    assert await desk.documents.store(first, 0, ["a", "b"])

    assert await desk.reserve(other, name="copy.md") == Reservation(HELD, "hours.md", first.job_id, ("a", "b"))
    assert await desk.reserve(other, 1, "prices") == Reservation(MINE, "hours.md", other.job_id)
    (row,) = await desk.documents.standing(desk.workspace_id)
    assert (row.size, row.state, row.attempt, row.is_copy) == (5, DocumentState.STORED, 1, False)


async def test_the_same_content_in_another_workspace_is_another_document(desk: Desk) -> None:
    elsewhere = Desk(desk.session, await workspace(desk.session, "Farm"))
    assert (await desk.reserve(await desk.job())).outcome is MINE
    assert (await elsewhere.reserve(await desk.job())).outcome is MINE


async def test_two_items_of_a_job_with_the_same_content_store_it_once(desk: Desk) -> None:
    held = await desk.job()
    assert (await desk.reserve(held, 0)).outcome is MINE
    assert (await desk.reserve(held, 1)).outcome is BUSY
    await desk.documents.store(held, 0, ["a"])
    assert (await desk.reserve(held, 1)).outcome is HELD


async def test_a_reservation_is_one_statement_and_so_is_what_follows(desk: Desk, statements: list[str]) -> None:
    held = await desk.job()
    statements.clear()
    await desk.reserve(held)
    await desk.documents.store(held, 0, ["a"])
    await desk.reserve(held)
    await desk.reserve(held, 1)
    await desk.documents.release(held, 1)
    assert len(statements) == 5, statements


async def test_of_twenty_that_reserve_the_same_content_at_once_one_has_it(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        desk = Desk(session, await workspace(session))
        holders = [await desk.job(20) for _ in range(4)]
    start = asyncio.Event()

    async def reserve(held: Held, position: int) -> ReservationOutcome:
        async with database.get_transaction() as session:
            await session.execute(text("SELECT 1"))
            await start.wait()
            return (await Desk(session, desk.workspace_id).reserve(held, position)).outcome

    for content_round in range(5):
        tasks = [asyncio.create_task(reserve(holders[at % 4], at)) for at in range(20)]
        await asyncio.sleep(0)
        start.set()
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*tasks)
        assert sorted(outcomes) == [BUSY] * 19 + [MINE], content_round
        async with database.get_transaction() as session:
            await session.execute(text("DELETE FROM workspace_documents"))
        start.clear()


async def test_what_twenty_wait_for_is_stored_once_and_all_others_find_it(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        desk = Desk(session, await workspace(session))
        holders = [await desk.job(20) for _ in range(4)]

    async def item(held: Held, position: int) -> ReservationOutcome:
        while True:
            async with database.get_autocommit() as session:
                outcome = (await Desk(session, desk.workspace_id).reserve(held, position)).outcome
            if outcome is MINE:
                async with database.get_autocommit() as session:
                    assert await DocumentRepository(session).store(held, position, [f"place-{position}"])
            if outcome is not BUSY:
                return outcome

    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(*(item(holders[at % 4], at) for at in range(20)))

    assert sorted(outcomes) == [HELD] * 19 + [MINE]
    async with database.get_session() as session:
        assert len(await DocumentRepository(session).standing(desk.workspace_id)) == 1


# Attempts


async def test_a_later_attempt_has_the_reservation_back_and_learns_what_was_stored(desk: Desk) -> None:
    held = await desk.job()
    await desk.reserve(held, 0, "hours")
    await desk.reserve(held, 1, "prices", "prices.csv")
    await desk.documents.store(held, 1, ["p"])
    later = await desk.again(held)

    assert await desk.reserve(later, 0, "hours") == Reservation(MINE, "hours.md", held.job_id)
    assert await desk.reserve(later, 1, "prices", "prices.csv") == Reservation(MINE, "prices.csv", held.job_id, ("p",))
    assert await desk.reserve(later, 1, "other", "prices.csv") == Reservation(MINE, "prices.csv", held.job_id, ("p",))
    assert [row.attempt for row in await desk.documents.of_job(held.job_id)] == [2, 1]


async def test_a_link_that_leads_to_another_content_now_reserves_that_one(desk: Desk) -> None:
    held = await desk.job()
    await desk.reserve(held, 0, "yesterday")
    later = await desk.again(held)

    assert (await desk.reserve(later, 0, "today")).outcome is MINE

    (row,) = await desk.documents.of_job(held.job_id)
    assert row.sha256 == sha256("today")


async def test_no_write_of_a_lost_attempt_lands(desk: Desk) -> None:
    lost = await desk.job()
    await desk.reserve(lost)
    held = await desk.again(lost)
    await desk.reserve(held)

    assert await desk.reserve(lost, 1, "prices") == Reservation(LOST)
    assert await desk.documents.store(lost, 0, ["a"]) is False
    assert await desk.documents.release(lost, 0) is False
    (row,) = await desk.documents.of_job(held.job_id)
    assert (row.state, row.attempt) == (DocumentState.RESERVED, 2)
    assert await desk.documents.store(held, 0, ["a"]) is True


@pytest.mark.parametrize("end", [JobStatus.FAILED, JobStatus.CANCELLED, "lost", "lost and claimed", "deleted"])
async def test_the_reservation_of_a_job_that_is_not_at_work_any_more_is_taken_over(desk: Desk, end: str) -> None:
    dead, alive = await desk.job(), await desk.job()
    await desk.reserve(dead, name="dead.md")
    await desk.leave(dead, end, "UPDATE workspace_documents SET reserved_at = now() - interval '1 hour'")

    assert await desk.reserve(alive, name="alive.md") == Reservation(MINE, "alive.md", alive.job_id)

    assert await desk.documents.of_job(dead.job_id) == []
    assert [row.name for row in await desk.documents.of_job(alive.job_id)] == ["alive.md"]


@pytest.mark.parametrize("status", [ItemStatus.FAILED, ItemStatus.SKIPPED])
async def test_the_reservation_of_an_item_that_ended_without_storing_is_taken_over(
    desk: Desk, status: ItemStatus
) -> None:
    first, other = await desk.job(), await desk.job()
    await desk.reserve(first, 1)
    await desk.end(first, 0, status)
    assert (await desk.reserve(other)).outcome is BUSY, "another item of the job ended"
    await desk.end(first, 1, status)
    assert (await desk.reserve(other)).outcome is MINE


async def test_what_was_stored_is_nobodys_to_take_over_when_its_job_is_gone(desk: Desk) -> None:
    first, other = await desk.job(), await desk.job()
    await desk.store(first, 0, "hours", "hours.md")
    await desk.jobs.finish([Finish(first, JobStatus.COMPLETED, None, None)])
    await desk.session.execute(text("DELETE FROM jobs WHERE id = :id"), {"id": first.job_id})
    await desk.session.execute(text("UPDATE workspace_documents SET reserved_at = now() - interval '1 hour'"))

    assert (await desk.reserve(other)).outcome is HELD


async def test_a_reservation_newer_than_what_is_known_of_its_job_is_left_alone(database: DatabaseManager) -> None:
    """While one waits for the reservation's row, its job gets a new attempt that reserves it again."""
    async with database.get_transaction() as session:
        desk = Desk(session, await workspace(session))
        dead, alive = await desk.job(), await desk.job()
        await desk.reserve(dead)
        await expire_lease(session, dead.job_id)
        await desk.jobs.rescue()

    async def take_over() -> Reservation:
        async with database.get_autocommit() as session:
            return await Desk(session, desk.workspace_id).reserve(alive, name="alive.md")

    async with database.get_transaction() as session:
        late = Desk(session, desk.workspace_id)
        (claimed,) = await late.jobs.claim([dead.job_id], "worker-2", LEASE)
        assert (await late.reserve(hold(claimed))).outcome is MINE
        waiting = asyncio.create_task(take_over())
        async with database.get_autocommit() as looking:  # its snapshot is taken: it waits for this transaction

            async def is_waiting() -> bool:
                return bool(await looking.scalar(text(WAITING)))

            await until(is_waiting)

    assert await asyncio.wait_for(waiting, 10) == Reservation(BUSY, "hours.md", dead.job_id)


async def test_a_released_content_is_free_and_a_stored_one_is_not_released(desk: Desk) -> None:
    first, other = await desk.job(), await desk.job()
    await desk.reserve(first)
    assert await desk.documents.release(first, 0) is True
    assert await desk.documents.release(first, 0) is False
    await desk.store(other, 0, "hours", "hours.md")
    assert await desk.documents.release(other, 0) is False
    assert await desk.names() == ["hours.md"]


# Copies


async def test_a_copy_is_stored_where_it_is_allowed_and_only_beside_what_stands(desk: Desk) -> None:
    first, other = await desk.job(), await desk.job()
    assert (await desk.reserve(first, allow_copy=True)).is_copy is False
    assert (await desk.reserve(other, allow_copy=True)).outcome is BUSY
    await desk.documents.store(first, 0, ["a"])

    copy = await desk.reserve(other, name="copy.md", allow_copy=True)

    assert copy == Reservation(MINE, "copy.md", other.job_id, (), is_copy=True)
    await desk.documents.store(other, 0, ["b"])
    later = await desk.again(other)
    assert await desk.reserve(later, name="copy.md", allow_copy=True) == copy._replace(locations=("b",))
    assert (await desk.reserve(later, 1)).locations == ("a",)


async def test_a_copy_holds_the_content_when_the_first_is_forgotten(desk: Desk) -> None:
    first, other = await desk.job(), await desk.job()
    await desk.store(first, 0, "hours", "hours.md")
    await desk.store(other, 0, "hours", "copy.md", allow_copy=True)
    replacing = await desk.job()
    removals = await desk.documents.begin_removal(replacing, await desk.documents.of_job(first.job_id))

    assert await desk.documents.forget_removed(replacing, [removals[0].id, 999_999_999]) == 1

    assert (await desk.reserve(first, 1)) == Reservation(HELD, "copy.md", other.job_id, ("place-copy.md-hours",))


# What stands


async def test_older_jobs_versions_under_the_same_names_are_superseded(desk: Desk) -> None:
    older, mine, newer = [await desk.job(3) for _ in range(3)]
    await desk.store(older, 0, "one", "hours.md")
    await desk.store(older, 1, "two", "Hours.md")
    await desk.store(older, 2, "three", "prices.md")
    await desk.store(mine, 0, "four", "hours.md")
    await desk.store(mine, 1, "five", "hours.md")  # a second one of that name in the same job
    await desk.store(newer, 0, "six", "hours.md")
    references = [Reference("hours.md", sha256("four")), Reference("prices.md", sha256("three"))]

    old = await desk.documents.superseded(desk.workspace_id, mine.job_id, references)

    assert [row.sha256 for row in old] == [sha256("one")]
    assert await desk.documents.superseded(desk.workspace_id + 1, mine.job_id, references) == []


async def test_a_content_that_another_name_of_the_upload_has_now_is_not_superseded(desk: Desk) -> None:
    older, mine = await desk.job(2), await desk.job(1)
    await desk.store(older, 0, "one", "a.md")
    await desk.store(older, 1, "two", "b.md")
    await desk.store(mine, 0, "three", "b.md")  # a.md has what was in b.md
    references = [Reference("a.md", sha256("two")), Reference("b.md", sha256("three"))]

    old = await desk.documents.superseded(desk.workspace_id, mine.job_id, references)

    assert [row.name for row in old] == ["a.md"]


async def test_what_is_brought_under_another_name_or_from_another_set_is_removed_by_nobody(desk: Desk) -> None:
    older, mine = await desk.job(3), await desk.job(1)
    await desk.store(older, 0, "one", "a.md", source="folder")
    await desk.store(older, 1, "two", "b.md", source="folder")
    await desk.store(older, 2, "three", "c.md", source="folder")

    theirs = [Reference("a.md", sha256("one"))]
    await desk.documents.settle(desk.workspace_id, theirs, "elsewhere", whole=True)
    copies = [Reference("copy of b.md", sha256("two"))]
    await desk.documents.settle(desk.workspace_id, copies, "folder", whole=False)

    nothing = await desk.documents.gone(desk.workspace_id, "folder", [], mine.job_id)
    assert [row.name for row in nothing] == ["c.md"]
    newer = [Reference("b.md", sha256("four"))]
    assert await desk.documents.superseded(desk.workspace_id, mine.job_id, newer) == []


async def test_a_renamed_document_of_a_whole_set_bears_its_new_name(desk: Desk) -> None:
    older, mine = await desk.job(2), await desk.job(1)
    await desk.store(older, 0, "one", "a.md", source="folder")
    await desk.store(older, 1, "two", "b.md", source="folder")
    now = [Reference("z.md", sha256("one")), Reference("twin.md", sha256("two")), Reference("b.md", sha256("two"))]

    await desk.documents.settle(desk.workspace_id, now, "folder", whole=True)

    assert await desk.documents.gone(desk.workspace_id, "folder", now, mine.job_id) == []
    assert sorted(await desk.names()) == ["b.md", "z.md"]
    assert [row.name for row in await desk.documents.gone(desk.workspace_id, "folder", now[:1], mine.job_id)] == [
        "b.md"
    ]


async def test_pages_hold_every_document_once(desk: Desk) -> None:
    held = await desk.job(7)
    for at in range(7):
        await desk.store(held, at, f"content {at}", f"{at}.md")
    await desk.reserve(await desk.job(), content="not yet")

    seen, after = list[str](), 0
    while page := await desk.documents.standing(desk.workspace_id, after, 3):
        seen += [row.name for row in page]
        after = page[-1].id

    assert seen == [f"{at}.md" for at in range(7)]
    for limit in (0, MAX_PAGE + 1):
        with pytest.raises(InvalidValueError):
            await desk.documents.standing(desk.workspace_id, 0, limit)


async def test_what_a_source_has_no_more_is_gone(desk: Desk) -> None:
    held, mine, newer = await desk.job(4), await desk.job(1), await desk.job(1)
    await desk.store(held, 0, "one", "one.md", source="folder")
    await desk.store(held, 1, "two", "two.md", source="folder")
    await desk.store(held, 2, "three", "three.md", source="other folder")
    await desk.store(held, 3, "four", "four.md")
    await desk.store(newer, 0, "five", "five.md", source="folder")
    now = [Reference("two.md", sha256("TWO")), Reference("new.md", sha256("new"))]

    gone = await desk.documents.gone(desk.workspace_id, "folder", now, mine.job_id)

    assert [row.name for row in gone] == ["one.md"]
    all_of_it = await desk.documents.gone(desk.workspace_id, "folder", [], mine.job_id)
    assert [row.name for row in all_of_it] == ["one.md", "two.md"], "not what a newer job stored"


async def test_what_the_engine_has_no_more_is_forgotten(desk: Desk) -> None:
    held = await desk.job(5)
    for at, places in enumerate((["a1", "a2"], ["b1", "b2"], ["c"])):
        await desk.reserve(held, at, str(at), f"{at}.md")
        await desk.documents.store(held, at, places)
    await desk.reserve(held, 3, "reserved")
    elsewhere = Desk(desk.session, await workspace(desk.session, "Farm"))
    await elsewhere.store(held, 4, "one", "far.md")
    there = ["a1", "a2", "b1", "x"]

    long_ago = await desk.documents.clock() - timedelta(seconds=60)
    assert await desk.documents.forget_missing(held, desk.workspace_id, there, before=long_ago) == []
    assert sorted(await desk.names()) == ["0.md", "1.md", "2.md"]
    (half,) = await desk.documents.forget_missing(held, desk.workspace_id, there)
    assert half[1:] == ("1.md", ("b1",)), "half of a document is left over"

    assert await desk.names() == ["0.md"]
    assert [row.position for row in await desk.documents.of_job(held.job_id)] == [0, 1, 3, 4]
    assert await desk.documents.forget_removed(held, [half.id]) == 1
    assert await desk.documents.forget_missing(held, desk.workspace_id, there) == []
    assert [row.position for row in await desk.documents.of_job(held.job_id)] == [0, 3, 4]


# Plans


async def test_a_plan_tells_new_changed_unchanged_and_duplicate_files_and_orphans(
    desk: Desk, statements: list[str]
) -> None:
    held = await desk.job(4)
    await desk.store(held, 0, "one", "one.md", source="folder")
    await desk.store(held, 1, "two", "two.md", source="folder")
    await desk.store(held, 2, "three", "gone.md", source="folder")
    await desk.store(held, 3, "four", "else.md", source="other")
    await desk.reserve(await desk.job(), 0, "five", "five.md")
    files = [
        ("one.md", "one"),
        ("two.md", "TWO"),
        ("copy of else.md", "four"),
        ("new.md", "new"),
        ("new again.md", "new"),
        ("five.md", "five"),
        ("two again.md", "TWO"),
    ]
    statements.clear()

    plan = await desk.documents.plan(desk.workspace_id, [(name, sha256(text)) for name, text in files], "folder")

    assert len(statements) == 1
    assert [(document.name, document.verdict, document.duplicate_of) for document in plan.documents] == [
        ("one.md", Verdict.UNCHANGED, None),
        ("two.md", Verdict.CHANGED, None),
        ("copy of else.md", Verdict.DUPLICATE, "else.md"),
        ("new.md", Verdict.NEW, None),
        ("new again.md", Verdict.DUPLICATE, "new.md"),
        ("five.md", Verdict.NEW, None),
        ("two again.md", Verdict.DUPLICATE, "two.md"),
    ]
    assert [document.sha256 for document in plan.documents] == [sha256(text) for _, text in files]
    assert plan.orphaned == ["gone.md"]


async def test_a_plan_without_files_or_source_is_empty(desk: Desk) -> None:
    await desk.store(await desk.job(), 0, "one", "one.md", source="folder")
    assert await desk.documents.plan(desk.workspace_id, []) == Plan([], [])
    assert await desk.documents.plan(desk.workspace_id, [], "folder") == Plan([], ["one.md"])
    with pytest.raises(InvalidValueError):
        await desk.documents.plan(desk.workspace_id, [("a", "b")] * (MAX_ITEMS + 1))


# Bounds


async def test_a_name_of_4096_characters_is_stored_and_found(desk: Desk) -> None:
    name = "".join(chr(0x4E00 + at) for at in range(4_096))
    await desk.store(await desk.job(), 0, "one", name)
    (row,) = await desk.documents.standing(desk.workspace_id)
    assert row.name == name


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"name": ""}, "name_length"),
        ({"name": "x" * 4_097}, "name_length"),
        ({"source": ""}, "source_length"),
        ({"sha256": "X" * 64}, "sha256_spelled"),
        ({"size": -1}, "numbers_in_range"),
        ({"position": -1}, "numbers_in_range"),
        ({"media_type": ""}, "media_type_length"),
        ({"workspace_id": 999_999}, "fk_workspace_documents_workspace_id"),
    ],
)
async def test_a_value_out_of_its_range_is_refused_by_its_rule(desk: Desk, change: dict[str, Any], rule: str) -> None:
    wish: dict[str, Any] = {
        "workspace_id": desk.workspace_id,
        "held": await desk.job(),
        "position": 0,
        "name": "a.md",
        "source": None,
        "sha256": sha256("a"),
        "size": 1,
        "media_type": "text/plain",
    }
    with pytest.raises(ConflictError, match=rule):
        await desk.documents.reserve(**(wish | change))


@pytest.mark.parametrize("locations", [[], ["x"] * 1_001])
async def test_a_document_stands_in_one_to_a_thousand_places(desk: Desk, locations: list[str]) -> None:
    held = await desk.job()
    await desk.reserve(held)
    with pytest.raises(InvalidValueError, match="locations"):
        await desk.documents.store(held, 0, locations)


# Workspaces


async def test_a_workspace_is_found_by_its_slug_and_forgotten_with_its_documents(desk: Desk) -> None:
    workspaces, others = WorkspaceRepository(desk.session, "local"), WorkspaceRepository(desk.session, "other")
    held = await desk.job()
    await desk.store(held, 0, "one", "one.md")
    found = await workspaces.by_slug("shop")
    assert found is not None
    assert (found.id, found.name, await others.by_slug("shop")) == (desk.workspace_id, "Shop", None)

    assert (await others.forget("shop"), await workspaces.forget("shop"), await workspaces.forget("shop")) == (
        False,
        True,
        False,
    )
    assert await desk.documents.of_job(held.job_id) == []
    assert await desk.documents.store(held, 0, ["late"]) is False


async def test_the_first_embedding_is_marked_once(desk: Desk) -> None:
    workspaces = WorkspaceRepository(desk.session, "local")
    assert await workspaces.is_embedded("shop") is False
    assert [await workspaces.mark_embedded("shop") for _ in range(2)] == [True, False]
    assert (await workspaces.is_embedded("shop"), await workspaces.mark_embedded("nowhere")) == (True, False)


@pytest.mark.parametrize("slug", ["shop", "shop-2"])
async def test_a_workspace_that_was_made_anew_holds_nothing(desk: Desk, slug: str) -> None:
    workspaces = WorkspaceRepository(desk.session, "local")
    farm = Desk(desk.session, await workspace(desk.session, "Farm"))
    held = await desk.job()
    await desk.store(held, 0, "one", "one.md")
    await desk.reserve(held, 1, "two")
    await farm.store(held, 2, "one", "far.md")
    await workspaces.mark_embedded("shop")

    assert await workspaces.rename_slug("Shop", slug) is True
    assert await workspaces.rename_slug("Nowhere", "nowhere") is False

    assert await workspaces.is_embedded(slug) is False
    found = await workspaces.by_slug(slug)
    assert found is not None
    assert (found.name, found.id) == ("Shop", desk.workspace_id)
    assert [row.name for row in await desk.documents.of_job(held.job_id)] == ["far.md"]


async def test_two_workspaces_never_have_one_slug(desk: Desk) -> None:
    await workspace(desk.session, "Farm")
    with pytest.raises(ConflictError, match="uq_workspaces_engine_slug"):
        await WorkspaceRepository(desk.session, "local").rename_slug("Shop", "farm")


# The step


STORED = """
INSERT INTO documents (id, workspace_id, key, name, sha256, media_type, words, passages, embedded_at)
VALUES (gen_random_uuid(), :workspace, :key, :name, :sha256, 'text/plain', 1, 1, :embedded_at)
"""


@pytest.fixture
async def empty(empty_database_url: str) -> Any:
    async with DatabaseManager(empty_database_url) as manager:
        yield manager.engine


async def test_what_the_local_engine_held_is_on_the_record_and_a_content_is_one_again_on_the_way_down(
    empty: AsyncEngine,
) -> None:
    job_id = uuid4()
    await upgrade(empty, "0006")
    async with empty.begin() as connection:
        shop = await connection.scalar(
            text("INSERT INTO workspaces (engine, name, slug) VALUES ('local', 'Shop', 'shop') RETURNING id")
        )
        await connection.execute(
            text(
                "INSERT INTO jobs (id, type, status, payload, attempt, completed_at) "
                "VALUES (:id, 'document_upload', 'completed', '{}', 2, now())"
            ),
            {"id": job_id},
        )
        await connection.execute(
            text(
                "INSERT INTO job_items (job_id, position, key, status, attempt, spec, result, finished_at) "
                "VALUES (:id, 7, 'a.md', 'done', 2, '{}', '{\"bytes\": 1234}', now())"
            ),
            {"id": job_id},
        )
        for key, name in (
            (f"{job_id}/7", "a.md"),
            (f"{uuid4()}/0", "b.md"),
            ("some/key", "odd key.md"),
            (f"{job_id}/8", "unembedded.md"),
        ):
            embedded = None if name == "unembedded.md" else await connection.scalar(text("SELECT now()"))
            row = {"workspace": shop, "key": key, "name": name, "sha256": sha256(name), "embedded_at": embedded}
            await connection.execute(text(STORED), row)

    await upgrade(empty, "0007")
    async with empty.begin() as connection:
        recorded = await connection.execute(
            text(
                "SELECT name, size, position, attempt, state, job_id, locations = ARRAY[documents.id::text] "
                "FROM workspace_documents JOIN documents USING (name) ORDER BY name"
            )
        )
        rows: list[tuple[str, int, int, int, str, UUID, bool]] = [tuple(row) for row in recorded]
        assert [row[:5] for row in rows] == [("a.md", 1234, 7, 2, "stored"), ("b.md", 0, 0, 1, "stored")]
        assert rows[0][5] == job_id
        assert all(row[6] for row in rows)
        copy = {"workspace": shop, "key": "copy", "name": "copy.md", "sha256": sha256("a.md"), "embedded_at": None}
        await connection.execute(text(STORED), copy)

    await downgrade(empty, "0006")
    async with empty.begin() as connection:
        names = list(await connection.scalars(text("SELECT name FROM documents ORDER BY name")))
        assert names == ["a.md", "b.md", "odd key.md", "unembedded.md"]
    await upgrade(empty)
