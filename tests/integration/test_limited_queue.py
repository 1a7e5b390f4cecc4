"""A limited queue in the hands of two workers at once."""

from dataclasses import replace
from datetime import timedelta

from repositories.queues import QueueRepository
from repositories.schemas import NewJob
from repositories.states import JobStatus
from tests.waiting import until
from tests.workshop import Workshop, working
from worker.client import JobClient
from worker.loops import Upkeep
from worker.queue import JobQueue
from worker.run import Runtime


async def test_two_workers_together_run_no_more_jobs_of_a_queue_than_its_limit(
    client: JobClient, shop: Runtime, workshop: Workshop, queue: JobQueue
) -> None:
    async with shop.database.get_transaction() as session:
        await QueueRepository(session).set_limits("default", max_running=3)
    ids = await client.enqueue_many([NewJob(type="held", payload={}) for _ in range(12)])
    upkeep = Upkeep(shop.database, queue, timedelta(seconds=2), workshop.tasks)

    async def all_ended() -> bool:
        await upkeep.stage()
        return all(job.status.is_final for job in [await client.status(job_id) for job_id in ids])

    async with working(shop) as one, working(replace(shop, worker_id="worker-2")) as other:

        async def the_rest_is_parked() -> bool:
            return await queue.length() == 0 and one.running + other.running == 3

        await until(the_rest_is_parked)
        workshop.gate.set()
        await until(all_ended)

    jobs = [await client.status(job_id) for job_id in ids]
    assert workshop.most == 3
    assert sorted(workshop.ran) == sorted(ids)
    assert {(job.status, job.attempt) for job in jobs} == {(JobStatus.COMPLETED, 1)}
