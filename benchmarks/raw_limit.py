"""The ceiling of this machine: the statements that a recorded job cannot do without, in batches, and no worker at all.

For each batch of 500: one Lua call that claims ids (the keys that stock ARQ needs: the queue's sorted set, a body and
an in-progress mark a job), one UPDATE of the real ``jobs`` table to start them, one UPDATE to finish them, one call
that takes ARQ's keys away. Two batches are in flight. No task runs, no lease is kept, nothing is decided or refused.
"""

import asyncio
import time

import asyncpg
from arq.constants import default_queue_name, in_progress_key_prefix, job_key_prefix
from redis.asyncio import Redis

from benchmarks.bench import bench
from benchmarks.processes import SystemFailedError
from benchmarks.servers import Servers
from benchmarks.systems import OURS

BATCH = 500
IN_FLIGHT = 2
_MARK_MS = 60_000

_CLAIM = """
local ids = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1)
local bodies = {}
for i, id in ipairs(ids) do
    redis.call('SET', ARGV[3] .. id, '1', 'PX', ARGV[4])
    bodies[i] = redis.call('GET', ARGV[2] .. id)
end
if #ids > 0 then redis.call('ZREM', KEYS[1], unpack(ids)) end
return {ids, bodies}
"""
_CLEAN = """
for _, id in ipairs(ARGV) do redis.call('UNLINK', KEYS[1] .. id, KEYS[2] .. id) end
"""
_START = """
UPDATE jobs SET status = 'processing', attempt = attempt + 1, worker_id = 'raw', started_at = clock_timestamp(),
    lease_expires_at = clock_timestamp() + interval '6 seconds', version = version + 1, updated_at = clock_timestamp()
WHERE id = ANY ($1::uuid[]) AND status = 'queued' RETURNING id, type, attempt, payload
"""
_FINISH = """
UPDATE jobs SET status = 'completed', completed_at = clock_timestamp(), lease_expires_at = NULL, progress = 100,
    version = version + 1, updated_at = clock_timestamp()
WHERE id = ANY ($1::uuid[]) AND status = 'processing'
"""


async def raw_limit(servers: Servers, jobs: int) -> dict[str, float]:
    """Put ``jobs`` jobs through those statements, and return how many a second.

    Raises:
        SystemFailedError: not every row was completed.
    """
    async with bench(OURS, servers) as place:
        await place.enqueue(jobs)
        began = time.monotonic()
        await asyncio.gather(*(_drain(servers) for _ in range(IN_FLIGHT)))
        seconds = time.monotonic() - began
        if left := (await place.ask("left"))["left"]:
            raise SystemFailedError(f"raw limit: {left} of {jobs} rows are not completed")
    return {"jobs_per_second": jobs / seconds}


async def _drain(servers: Servers) -> None:
    redis = Redis.from_url(servers.redis_url)
    claim, clean = redis.register_script(_CLAIM), redis.register_script(_CLEAN)
    database = await asyncpg.connect(servers.database_url)
    try:
        while True:
            ids, _ = await claim([default_queue_name], [BATCH, job_key_prefix, in_progress_key_prefix, _MARK_MS])
            if not ids:
                return
            started = [row["id"] for row in await database.fetch(_START, [job_id.decode() for job_id in ids])]
            await database.execute(_FINISH, started)
            await clean([job_key_prefix, in_progress_key_prefix], ids)
    finally:
        await database.close()
        await redis.aclose()
