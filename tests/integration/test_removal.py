"""Content that is being removed is not there: whoever wants it meanwhile waits, and stores it anew.

Removals are held up inside the engine until the test lets them go on, so that everything else happens in between.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import Any
from uuid import UUID

import pytest
from arq.connections import ArqRedis
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository
from repositories.models import Job
from repositories.states import JobStatus
from tests.anythingllm_server import Behaviour, Server, running_server
from tests.engines import NotingEngine
from tests.factories import expire_lease
from tests.integration.anythingllm_engines import make_engine
from tests.waiting import until
from worker.client import JobClient
from worker.engines.base import Engine, EngineUnavailableError
from worker.engines.local import LocalEngine
from worker.execution import execute
from worker.files import FileSource
from worker.payloads import OnDuplicate
from worker.run import Runtime
from worker.tasks.maintenance import sweep_documents

ONE, TWO, THREE = b"The shop opens at nine on Saturdays.", b"A puncture costs ten euro.", b"Gouda ripens for a year."
STANDING = "SELECT name, sha256, locations FROM workspace_documents WHERE state = 'stored'"


class Holding:
    """An engine whose calls named in ``held`` wait, before they begin or after they are done, until they may go on."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.held: set[str] = set()
        self.entered, self.may_go = asyncio.Event(), asyncio.Event()
        self.seconds = 0.0
        self.fails_after: Callable[[Collection[str]], Collection[str]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def _hold(self, name: str) -> None:
        if name in self.held:
            self.held.discard(name)
            self.entered.set()
            await self.may_go.wait()

    async def remove(self, slug: str, locations: Collection[str]) -> None:
        await self._hold("before remove")
        if self.seconds:
            self.entered.set()
            await asyncio.sleep(self.seconds)
        if self.fails_after is not None:
            part, self.fails_after = self.fails_after(sorted(locations)), None
            await self.engine.remove(slug, part)
            raise EngineUnavailableError("engine_unavailable", "the engine went away in the middle")
        await self.engine.remove(slug, locations)
        await self._hold("after remove")

    async def sweep(self, slug: str, job_id: UUID, keep: Collection[str]) -> int:
        await self._hold("before sweep")
        return await self.engine.sweep(slug, job_id, keep)

    async def add_document(self, slug: str, document: Any) -> Any:
        if document.name.startswith("slow"):
            await self._hold("before add")
        return await self.engine.add_document(slug, document)

    async def delete_workspace(self, slug: str) -> bool:
        await self._hold("before delete")
        return await self.engine.delete_workspace(slug)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(Behaviour.quick()) as running:
        yield running


@pytest.fixture(params=["noting", "local", "anythingllm"])
async def real(
    request: pytest.FixtureRequest, database: DatabaseManager, redis: ArqRedis, engine: NotingEngine
) -> AsyncIterator[Engine]:
    match request.param:
        case "noting":
            yield engine
        case "local":
            local = LocalEngine(database, parsers=1)
            yield local
            await local.aclose()
        case _:
            remote = make_engine(request.getfixturevalue("server"), database, redis)
            yield remote
            await remote.aclose()


only_noting = pytest.mark.parametrize("real", ["noting"], indirect=True)


class Shop:
    """A workspace, and what tests do to it again and again."""

    def __init__(self, client: JobClient, runtime: Runtime, engine: Engine, statements: list[str]) -> None:
        self.client, self.runtime, self.statements = client, runtime, statements
        self.holding = Holding(engine)
        runtime.engine = self.holding

    async def upload(self, *files: tuple[str, bytes], **fields: Any) -> Job:
        return await self.client.upload_documents("shop", [FileSource(*file) for file in files], **fields)

    async def run(self, job: Job) -> Job:
        await execute(self.runtime, str(job.id))
        return await self.client.status(job.id)

    async def uploaded(self, *files: tuple[str, bytes], **fields: Any) -> Job:
        job = await self.run(await self.upload(*files, **fields))
        assert job.status is JobStatus.COMPLETED, job.errors
        return job

    def start(self, job: Job) -> "asyncio.Task[Job]":
        return asyncio.create_task(self.run(job))

    async def held_up(self, job: Job, *calls: str) -> "asyncio.Task[Job]":
        """Run a job until a call of its engine is held up."""
        self.holding.entered.clear()
        self.holding.may_go.clear()
        self.holding.held = set(calls)
        running = self.start(job)
        entered = asyncio.create_task(self.holding.entered.wait())
        await asyncio.wait({running, entered}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert entered.done(), running
        return running

    async def has_met_it(self, running: "asyncio.Task[Job]") -> None:
        """Return once a job ended, or has looked twice for its content: so it waits for it."""
        seen = self.looks()

        async def is_so() -> bool:
            return running.done() or self.looks() >= seen + 2

        await until(is_so)

    def looks(self) -> int:
        return sum("INSERT INTO workspace_documents" in statement for statement in self.statements)

    async def items(self, job: Job) -> list[str]:
        return [str(item.status) for item in await self.client.items(job.id)]

    async def lose(self, job: Job) -> None:
        """The worker of a job dies, and its job is rescued."""
        async with self.runtime.database.get_transaction() as session:
            await expire_lease(session, job.id)
            await JobRepository(session).rescue()

    async def standing(self) -> Counter[str]:
        """The names on the record, each as often as it stands; what stands in the engine is the same, and each once."""
        async with self.runtime.database.get_session() as session:
            rows = (await session.execute(text(STANDING))).all()
            left = await session.scalar(text("SELECT count(*) FROM workspace_documents WHERE state <> 'stored'"))
            slug = await session.scalar(text("SELECT slug FROM workspaces WHERE name = 'shop'"))
        assert not left, "a row is left that is not stored"
        places = [place for row in rows for place in row.locations]
        there = await self.holding.engine.locations(str(slug)) if slug else frozenset()
        assert sorted(places) == sorted(there)
        contents = Counter(row.sha256 for row in rows)
        assert not [content for content, times in contents.items() if times > 1]
        return Counter(row.name for row in rows)


@pytest.fixture
async def shop(client: JobClient, runtime: Runtime, real: Engine, statements: list[str]) -> AsyncIterator[Shop]:
    shop = Shop(client, runtime, real, statements)
    yield shop
    shop.holding.may_go.set()
    await shop.runtime.engine.delete_workspace("shop")  # the module's server is the next test's


async def ended(*running: "asyncio.Task[Job]") -> list[Job]:
    async with asyncio.timeout(60):
        return await asyncio.gather(*running)


# Beside a removal


async def test_what_a_replace_is_removing_is_stored_anew_for_who_wants_it(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE))
    replacing = await shop.held_up(
        await shop.upload(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE), "before remove", "after remove"
    )
    other = shop.start(await shop.upload(("copy.txt", ONE)))
    await shop.has_met_it(other)
    shop.holding.may_go.set()

    first, second = await ended(replacing, other)

    assert (first.status, second.status) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
    assert await shop.standing() == Counter({"a.txt": 1, "copy.txt": 1})
    assert await shop.items(second) == ["done"]


async def test_what_a_sync_is_removing_is_stored_anew_for_who_wants_it(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE), ("b.txt", TWO), source="folder", sync=True)
    syncing = await shop.held_up(await shop.upload(("a.txt", ONE), source="folder", sync=True), "before remove")
    other = shop.start(await shop.upload(("b.txt", TWO)))
    await shop.has_met_it(other)
    shop.holding.may_go.set()

    first, second = await ended(syncing, other)

    assert (first.result or {})["removed"] == 1
    assert await shop.standing() == Counter({"a.txt": 1, "b.txt": 1})
    assert await shop.items(second) == ["done"]


@pytest.mark.parametrize("real", ["noting", "local"], indirect=True)
async def test_a_newer_sync_gets_back_what_an_older_one_is_removing(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE), ("b.txt", TWO), source="folder", sync=True)
    older = await shop.held_up(await shop.upload(("a.txt", ONE), source="folder", sync=True), "before remove")
    newer = shop.start(await shop.upload(("a.txt", ONE), ("b.txt", TWO), source="folder", sync=True))
    await shop.has_met_it(newer)
    shop.holding.may_go.set()
    await ended(older, newer)

    assert await shop.standing() == Counter({"a.txt": 1, "b.txt": 1})


@pytest.mark.parametrize("real", ["noting", "local"], indirect=True)
async def test_an_older_sync_that_ends_late_leaves_what_a_newer_one_found(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE), ("b.txt", TWO), source="folder", sync=True)
    older = await shop.held_up(await shop.upload(("a.txt", ONE), source="folder", sync=True), "before sweep")
    await shop.uploaded(("a.txt", ONE), ("b.txt", TWO), source="folder", sync=True)
    shop.holding.may_go.set()
    (late,) = await ended(older)

    assert (late.result or {})["removed"] == 0
    assert await shop.standing() == Counter({"a.txt": 1, "b.txt": 1})


@pytest.mark.parametrize("real", ["noting", "local"], indirect=True)
async def test_a_replace_leaves_what_a_running_upload_found_by_another_name(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE))
    other = await shop.held_up(await shop.upload(("copy.txt", ONE)), "before sweep")  # its only item is over
    await shop.uploaded(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE)
    shop.holding.may_go.set()
    (job,) = await ended(other)

    assert await shop.items(job) == ["skipped"]
    async with shop.runtime.database.get_session() as session:
        contents = set(await session.scalars(text("SELECT size FROM workspace_documents WHERE state = 'stored'")))
    assert contents == {len(ONE), len(TWO)}
    await shop.standing()


@only_noting
async def test_a_renamed_file_of_a_sync_outlives_a_replace_of_its_old_name(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE), source="folder", sync=True)
    syncing = await shop.held_up(await shop.upload(("z.txt", ONE), source="folder", sync=True), "before sweep")
    await shop.uploaded(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE)
    shop.holding.may_go.set()
    await ended(syncing)

    assert await shop.standing() == Counter({"a.txt": 1, "z.txt": 1})


@only_noting
async def test_a_newer_version_takes_the_place_of_what_an_older_job_found(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE))
    older = await shop.held_up(await shop.upload(("a.txt", ONE)), "before sweep")
    newer = await shop.uploaded(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE)
    shop.holding.may_go.set()
    await ended(older)

    assert (newer.result or {})["replaced"] == 1
    assert await shop.standing() == Counter({"a.txt": 1})


@only_noting
async def test_two_that_replace_with_each_others_content_lose_neither(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE), ("b.txt", TWO))
    first = await shop.held_up(await shop.upload(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE), "before remove")
    second = shop.start(await shop.upload(("b.txt", ONE), on_duplicate=OnDuplicate.REPLACE))
    await shop.has_met_it(second)
    shop.holding.may_go.set()
    await ended(first, second)

    async with shop.runtime.database.get_session() as session:
        sizes = sorted(await session.scalars(text("SELECT size FROM workspace_documents WHERE state = 'stored'")))
    assert sizes == sorted([len(ONE), len(TWO)])
    await shop.standing()


@only_noting
@pytest.mark.parametrize("again", ["failed items", "a person"])
async def test_what_is_tried_again_waits_for_the_removal_of_its_content(
    shop: Shop, engine: NotingEngine, again: str
) -> None:
    content = b"reject this at first"
    failed = await shop.run(await shop.upload(("fine.txt", THREE), ("copy.txt", content), max_attempts=1))
    if again == "a person":
        failed = await shop.run(await shop.upload(("copy.txt", content), max_attempts=1))
        assert failed.status is JobStatus.FAILED
    engine.mended = True
    await shop.uploaded(("a.txt", content))
    replacing = await shop.held_up(await shop.upload(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE), "before remove")
    if again == "a person":
        await shop.client.retry([failed.id])
        job = failed
    else:
        job = await shop.client.retry_failed_items(failed.id)
    trying = shop.start(job)
    await shop.has_met_it(trying)
    shop.holding.may_go.set()
    _, tried = await ended(replacing, trying)

    assert (tried.status, await shop.items(tried)) == (JobStatus.COMPLETED, ["done"])
    assert await shop.standing() == Counter({"a.txt": 1, "copy.txt": 1, "fine.txt": 1})


@only_noting
async def test_a_copy_that_is_added_while_its_content_is_removed_stands_once(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE))
    replacing = await shop.held_up(await shop.upload(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE), "before remove")
    adding = shop.start(await shop.upload(("copy.txt", ONE), on_duplicate=OnDuplicate.ADD))
    await shop.has_met_it(adding)
    shop.holding.may_go.set()
    await ended(replacing, adding)

    assert await shop.standing() == Counter({"a.txt": 1, "copy.txt": 1})


@only_noting
async def test_a_sweep_leaves_what_an_upload_found_and_what_is_being_removed(shop: Shop) -> None:
    first = await shop.uploaded(("a.txt", ONE), ("b.txt", THREE))
    async with shop.runtime.database.get_transaction() as session:  # so that the sweep comes by
        await session.execute(text("UPDATE jobs SET attempt = 2 WHERE id = :id"), {"id": first.id})
    replacing = await shop.held_up(await shop.upload(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE), "before remove")
    found = await shop.uploaded(("copy of b.txt", THREE))
    await sweep_documents({"runtime": shop.runtime})
    shop.holding.may_go.set()
    await ended(replacing)

    assert await shop.items(found) == ["skipped"]
    assert await shop.standing() == Counter({"a.txt": 1, "b.txt": 1})


@pytest.mark.slow
async def test_what_ten_uploads_bring_during_a_removal_of_six_seconds_stands(shop: Shop) -> None:
    """Prints how many were lost and how long they waited, for comparison with other versions."""
    contents = [b"Bicycle %d costs %d euro." % (at, 100 + at) for at in range(10)]
    await shop.uploaded(*((f"{at}.txt", content) for at, content in enumerate(contents)))
    shop.holding.seconds = 6.0
    newer = [(f"{at}.txt", content + b" It is sold.") for at, content in enumerate(contents)]
    replacing = shop.start(await shop.upload(*newer, on_duplicate=OnDuplicate.REPLACE))
    await asyncio.wait_for(shop.holding.entered.wait(), 30)
    began = time.monotonic()
    jobs = [await shop.upload((f"copy {at}.txt", content)) for at, content in enumerate(contents)]
    uploads = await ended(*map(shop.start, jobs))
    seconds = time.monotonic() - began
    (replaced,) = await ended(replacing)

    assert {job.status for job in [replaced, *uploads]} == {JobStatus.COMPLETED}
    async with shop.runtime.database.get_session() as session:
        there = set(await session.scalars(text("SELECT sha256 FROM workspace_documents WHERE state = 'stored'")))
    lost = sum(hashlib.sha256(content).hexdigest() not in there for content in contents)
    told = f"{shop.runtime.engine.name}: {lost} of {len(contents)} lost, uploads took {seconds:.1f} s"
    print(told)  # noqa: T201 - the figures
    assert lost == 0
    assert sum((await shop.standing()).values()) == 2 * len(contents)


# A remover that dies


@pytest.mark.parametrize("call", ["before remove", "after remove"])
async def test_an_upload_of_the_content_finishes_what_a_dead_remover_began(shop: Shop, call: str) -> None:
    await shop.uploaded(("a.txt", ONE))
    replace = await shop.upload(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE)
    dead = await shop.held_up(replace, call)
    other = shop.start(await shop.upload(("copy.txt", ONE)))
    await shop.has_met_it(other)
    await shop.lose(replace)
    (job,) = await ended(other)
    shop.holding.may_go.set()  # the dead one was only slow: it removes the same once more
    await asyncio.wait({dead}, timeout=20)

    assert await shop.items(job) == ["done"]
    assert await shop.standing() == Counter({"a.txt": 1, "copy.txt": 1})


@pytest.mark.parametrize("real", ["noting", "local"], indirect=True)
@pytest.mark.parametrize("call", ["before remove", "after remove"])
async def test_the_next_attempt_finishes_what_the_last_one_began_to_remove(shop: Shop, call: str) -> None:
    await shop.uploaded(("a.txt", ONE))
    replace = await shop.upload(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE)
    dead = await shop.held_up(replace, call)
    await shop.lose(replace)
    after = await shop.run(replace)
    shop.holding.may_go.set()
    await asyncio.wait({dead}, timeout=20)

    assert (after.status, after.attempt, (after.result or {})["replaced"]) == (JobStatus.COMPLETED, 2, 1)
    assert await shop.standing() == Counter({"a.txt": 1})


@only_noting
@pytest.mark.parametrize("call", ["before remove", "after remove"])
async def test_the_sweep_finishes_what_nobody_else_does(shop: Shop, call: str) -> None:
    await shop.uploaded(("a.txt", ONE))
    replace = await shop.upload(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE)
    dead = await shop.held_up(replace, call)
    await sweep_documents({"runtime": shop.runtime})
    async with shop.runtime.database.get_session() as session:
        assert await session.scalar(text("SELECT count(*) FROM workspace_documents")) == 2, "its remover lives"
    await shop.lose(replace)
    await shop.client.cancel([replace.id])

    await sweep_documents({"runtime": shop.runtime})

    assert await shop.standing() == Counter({"a.txt": 1})
    shop.holding.may_go.set()
    await asyncio.wait({dead}, timeout=20)


@only_noting
async def test_the_rest_of_half_a_document_goes_though_who_saw_it_died(shop: Shop, engine: NotingEngine) -> None:
    await shop.uploaded(("book.txt", ONE))
    (sheet,) = engine.documents
    engine.documents["second sheet"] = ONE
    engine.embedded.append("second sheet")
    async with shop.runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE workspace_documents SET locations = locations || ARRAY['second sheet']"))
    del engine.documents[sheet]  # by hand
    seeing = await shop.upload(("b.txt", TWO))
    dead = await shop.held_up(seeing, "before remove")
    await shop.lose(seeing)
    await shop.client.cancel([seeing.id])

    await sweep_documents({"runtime": shop.runtime})

    assert await shop.standing() == Counter()
    assert not engine.documents
    shop.holding.may_go.set()
    await asyncio.wait({dead}, timeout=20)


@only_noting
async def test_what_a_dead_remover_left_in_a_deleted_workspace_is_forgotten(shop: Shop, engine: NotingEngine) -> None:
    await shop.uploaded(("a.txt", ONE))
    replace = await shop.upload(("a.txt", TWO), on_duplicate=OnDuplicate.REPLACE)
    dead = await shop.held_up(replace, "before remove")
    await shop.lose(replace)
    await shop.client.cancel([replace.id])
    engine.deleted.append("slug-shop")  # by hand

    await sweep_documents({"runtime": shop.runtime})

    async with shop.runtime.database.get_session() as session:
        states = list(await session.scalars(text("SELECT state FROM workspace_documents")))
    assert states == ["stored"]
    shop.holding.may_go.set()
    await asyncio.wait({dead}, timeout=20)


async def test_a_removal_that_broke_off_in_the_middle_is_finished(shop: Shop) -> None:
    await shop.uploaded(("a.txt", ONE), ("b.txt", TWO), source="folder", sync=True)
    shop.holding.fails_after = lambda locations: [*locations][:1]
    sync = await shop.upload(("c.txt", THREE), source="folder", sync=True)
    broken = await shop.run(sync)
    assert broken.status is JobStatus.QUEUED

    both = await shop.uploaded(("a again.txt", ONE))
    async with shop.runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET scheduled_at = NULL WHERE status = 'queued'"))
    after = await shop.run(sync)

    assert (await shop.items(both), after.status) == (["done"], JobStatus.COMPLETED)
    assert await shop.standing() == Counter({"a again.txt": 1, "c.txt": 1})


# A workspace that goes


@pytest.mark.parametrize("again", [False, True])
async def test_an_upload_whose_workspace_went_before_its_end_stores_all_again(shop: Shop, again: bool) -> None:
    await shop.uploaded(("a.txt", ONE))
    upload = await shop.upload(("found.txt", ONE), ("b.txt", TWO))
    running = await shop.held_up(upload, "before sweep")  # both items are over
    await shop.run(await shop.client.delete_workspace("shop"))
    if again:
        await shop.uploaded(("other.txt", THREE))
    shop.holding.may_go.set()
    (gone,) = await ended(running)
    assert gone.errors[-1]["code"] == "workspace_gone"
    assert (gone.items_done, gone.items_skipped, gone.progress) == (0, 0, 0)
    async with shop.runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET scheduled_at = NULL WHERE status = 'queued'"))

    after = await shop.run(upload)

    assert (after.status, await shop.items(after)) == (JobStatus.COMPLETED, ["done", "done"])
    others = Counter({"other.txt": 1}) if again else Counter()
    assert await shop.standing() == Counter({"found.txt": 1, "b.txt": 1}) + others


async def test_an_upload_whose_workspace_went_in_its_middle_stores_all_again(shop: Shop) -> None:
    upload = await shop.upload(("b.txt", TWO), ("slow.txt", ONE))
    running = await shop.held_up(upload, "before add")

    async def is_one_done() -> bool:
        return (await shop.client.status(upload.id)).items_done == 1

    await until(is_one_done)
    await shop.run(await shop.client.delete_workspace("shop"))
    await shop.uploaded(("other.txt", THREE))
    shop.holding.may_go.set()
    await ended(running)
    async with shop.runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET scheduled_at = NULL WHERE status = 'queued'"))

    after = await shop.run(upload)

    assert (after.status, await shop.items(after)) == (JobStatus.COMPLETED, ["done", "done"])
    assert await shop.standing() == Counter({"b.txt": 1, "slow.txt": 1, "other.txt": 1})


@only_noting
async def test_an_upload_tried_again_in_a_new_workspace_stores_all_again(shop: Shop, engine: NotingEngine) -> None:
    upload = await shop.upload(("b.txt", TWO), ("bad.txt", b"crash"), max_attempts=2)
    half = await shop.run(upload)
    assert (half.status, half.items_done) == (JobStatus.QUEUED, 1)
    await shop.run(await shop.client.delete_workspace("shop"))
    engine.trouble_is_over = True
    async with shop.runtime.database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET scheduled_at = NULL WHERE status = 'queued'"))

    after = await shop.run(upload)

    assert (after.status, await shop.items(after)) == (JobStatus.COMPLETED, ["done", "done"])
    assert await shop.standing() == Counter({"b.txt": 1, "bad.txt": 1})
