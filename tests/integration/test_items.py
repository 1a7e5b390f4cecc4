"""Items: written once, and only by the attempt that owns the job."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from repositories.items import ItemRepository
from repositories.jobs import JobRepository
from repositories.schemas import Finish, Held, ItemOutcome, JobError, NewItem
from repositories.states import ItemStatus, JobStatus
from tests.factories import ERROR, LEASE, expire_lease, hold, running_jobs


def _new(count: int) -> list[NewItem]:
    return [NewItem(position=at, key=f"file-{at}", spec={"name": f"file-{at}"}) for at in range(count)]


def _done(*positions: int) -> list[ItemOutcome]:
    return [ItemOutcome(position=at, status=ItemStatus.DONE, result={"at": at}) for at in positions]


def _failed(position: int) -> ItemOutcome:
    error = JobError(code="corrupt", message="cannot be read")
    return ItemOutcome(position=position, status=ItemStatus.FAILED, error=error)


async def test_counts_and_progress_follow_the_items(session: AsyncSession, jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    items = ItemRepository(session)
    await items.expand(hold(job), _new(4))

    await items.record(hold(job), [*_done(0, 1), _failed(2)])

    after = await jobs.get_by_id_or_raise(job.id)
    assert (after.items_total, after.items_done, after.items_failed, after.progress) == (4, 2, 1, 75.0)
    assert [item.position for item in await items.pending(job.id)] == [3]


async def test_an_item_recorded_twice_counts_once(session: AsyncSession, jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    items = ItemRepository(session)
    await items.expand(hold(job), _new(2))

    await items.record(hold(job), _done(0))
    await items.record(hold(job), [_failed(0), *_done(1)])

    after = await jobs.get_by_id_or_raise(job.id)
    assert (after.items_done, after.items_failed) == (2, 0)


async def test_no_write_of_a_lost_attempt_lands(session: AsyncSession, jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    items = ItemRepository(session)
    await items.expand(hold(job), _new(2))
    lost = Held(job.id, job.attempt)
    await expire_lease(session, job.id)
    await jobs.rescue()
    await jobs.claim([job.id], "worker-2", LEASE)

    assert await items.record(lost, _done(0)) is False
    assert await items.expand(lost, _new(9)) is False

    after = await jobs.get_by_id_or_raise(job.id)
    assert (after.attempt, after.items_total, after.items_done) == (2, 2, 0)
    assert await items.record(Held(job.id, 2), _done(0)) is True


async def test_a_group_of_items_is_one_statement(
    session: AsyncSession, jobs: JobRepository, statements: list[str]
) -> None:
    (job,) = await running_jobs(jobs)
    items = ItemRepository(session)
    await items.expand(hold(job), _new(500))
    statements.clear()

    await items.record(hold(job), _done(*range(500)))

    assert len(statements) == 1, statements


async def test_a_retry_keeps_finished_items_and_opens_failed_ones(session: AsyncSession, jobs: JobRepository) -> None:
    (job,) = await running_jobs(jobs)
    items = ItemRepository(session)
    await items.expand(hold(job), _new(3))
    await items.record(hold(job), [*_done(0), _failed(1), _failed(2)])
    await jobs.finish([Finish(hold(job), JobStatus.FAILED, None, ERROR)])

    await jobs.retry([job.id])

    after = await jobs.get_by_id_or_raise(job.id)
    assert (after.items_done, after.items_failed) == (1, 0)
    assert [item.position for item in await items.pending(job.id)] == [1, 2]


async def test_items_whose_work_is_gone_are_done_again_and_counted_out(
    session: AsyncSession, jobs: JobRepository
) -> None:
    (job,) = await running_jobs(jobs)
    items = ItemRepository(session)
    await items.expand(hold(job), _new(5))
    await items.record(hold(job), [*_done(0, 1), ItemOutcome(position=2, status=ItemStatus.SKIPPED), _failed(3)])
    later = await session.scalar(text("SELECT clock_timestamp()"))

    assert await items.reopen(hold(job), before=job.started_at) is True
    assert len(await items.pending(job.id)) == 1, "nothing had ended by then"
    assert await items.reopen(Held(job.id, job.attempt + 1)) is False
    assert await items.reopen(hold(job), before=later) is True

    after = await jobs.get_by_id_or_raise(job.id)
    assert (after.items_done, after.items_skipped, after.items_failed, after.progress) == (0, 0, 1, 20.0)
    assert [(item.position, item.result) for item in await items.pending(job.id)] == [(at, None) for at in (0, 1, 2, 4)]
    await items.record(hold(job), _done(0, 1, 2, 4))
    assert (await jobs.get_by_id_or_raise(job.id)).progress == 100.0
