"""The cron tasks."""

from sqlalchemy import text

from repositories.jobs import JobRepository
from repositories.states import JobStatus
from tests.factories import job_in
from worker.main import worker_settings
from worker.run import Runtime
from worker.settings import Settings
from worker.tasks.maintenance import cleanup, roll_up


async def test_retention_deletes_what_is_old_and_keeps_the_rest(runtime: Runtime) -> None:
    async with runtime.database.get_transaction() as session:
        old, recent = [await job_in(JobRepository(session), JobStatus.COMPLETED) for _ in range(2)]
        statement = text("UPDATE jobs SET completed_at = completed_at - make_interval(days => :days) WHERE id = :id")
        await session.execute(statement, {"days": runtime.settings.job_cleanup_days + 1, "id": old.id})

    await cleanup({"runtime": runtime})

    async with runtime.database.get_session() as session:
        left = await JobRepository(session).get_many([old.id, recent.id])
    assert [job.id for job in left] == [recent.id]


async def test_the_hours_that_are_over_are_written_once(runtime: Runtime) -> None:
    async with runtime.database.get_transaction() as session:
        await job_in(JobRepository(session), JobStatus.COMPLETED)
        await session.execute(text("UPDATE jobs SET completed_at = completed_at - interval '3 hours'"))

    await roll_up({"runtime": runtime})
    await roll_up({"runtime": runtime})

    async with runtime.database.get_session() as session:
        assert await session.scalar(text("SELECT count(*) FROM statistics")) == 1


def test_statistics_are_written_before_the_jobs_that_they_count_are_deleted(settings: Settings) -> None:
    first, second = worker_settings(settings)["cron_jobs"]

    assert (first.name, second.name) == ("cron:roll_up", "cron:cleanup")
    assert first.minute < second.minute
