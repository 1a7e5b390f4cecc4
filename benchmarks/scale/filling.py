"""Filling an empty database with jobs that look lived in, by set-based SQL.

The finished jobs are spread evenly over the last ninety days and stand on the pages in the order of their creation, as
they would; 94 % completed, 5 % failed with an error on the record, 1 % were cancelled. The live ones are the newest.
Indexes are dropped while rows come in and built anew from their own definitions.
"""

import time

import asyncpg

from repositories.database import DatabaseManager
from repositories.jobs import JobRepository

DAYS = 90
WORKSPACES = 50
RARE_TYPE = "workspace_deletion"
CHUNK = 500_000

SEED = "SELECT setseed(0.42)"

# A UUIDv7 is its time in milliseconds and a random rest.
UUID7 = """CAST(lpad(to_hex(CAST(extract(epoch FROM created_at) * 1000 AS bigint)), 12, '0') || '7'
           || substr(noise, 1, 3) || 'a' || substr(noise, 4, 15) AS uuid)"""
DRAWN = """
    md5(random()::text) AS noise, random() AS fate, random() AS luck,
    CASE WHEN random() >= 0.03 THEN 'workspace-' || CAST(ceil(50 * random() ^ 1.7) AS integer) END AS workspace,
    CASE WHEN kind < 0.60 THEN 'document_upload' WHEN kind < 0.98 THEN 'question_processing'
         WHEN kind < 0.9998 THEN 'workspace_creation' ELSE 'workspace_deletion' END AS type,
    20 * -ln(1 - random() * 0.999) AS waited,
    exp(2 + 1.1 * sqrt(-2 * ln(1 - random() * 0.9999)) * cos(6.2832 * random())) AS worked,
    1 + CAST(floor(20 * random() ^ 2) AS integer) AS items
"""
PAYLOAD = """jsonb_build_object('version', 1, 'workspace', workspace, 'source', jsonb_build_object('kind', 'storage',
    'keys', jsonb_build_array('uploads/' || noise || '/handbook.pdf', 'uploads/' || noise || '/terms.docx')))"""
METADATA = """jsonb_build_object('project', 'project-' || items, 'requested_by', 'user-' || substr(noise, 1, 2),
    'filename', 'handbook-' || substr(noise, 1, 8) || '.pdf', 'file_size', CAST(1000000 * luck AS integer))"""

# $1 first number, $2 last number, $3 all numbers, $4 the days they are spread over, $5 the days before now they end.
FINISHED = f"""
INSERT INTO jobs (id, type, status, workspace_id, payload, metadata, progress, items_total, items_done, items_failed,
                  attempt, failures, worker_id, created_at, queued_at, started_at, completed_at, updated_at, errors,
                  result, version, priority)
SELECT {UUID7}, type, status, workspace, {PAYLOAD}, {METADATA},
       CASE status WHEN 'completed' THEN 100 ELSE 40 END, items,
       CASE status WHEN 'completed' THEN items ELSE 0 END, CASE status WHEN 'failed' THEN items ELSE 0 END,
       1, CASE status WHEN 'failed' THEN 1 ELSE 0 END, 'worker-' || substr(noise, 1, 1),
       created_at, created_at, created_at + waited * interval '1 second', completed_at, completed_at,
       CASE status WHEN 'completed' THEN '[]'::jsonb ELSE jsonb_build_array(jsonb_build_object(
            'attempt', 1, 'at', completed_at,
            'code', CASE status WHEN 'failed' THEN 'all_items_failed' ELSE 'cancelled' END,
            'message', 'the engine answered 500 for ' || noise || ' and again after three tries')) END,
       CASE status WHEN 'completed' THEN jsonb_build_object('version', 1, 'items', items,
            'documents', jsonb_build_array(jsonb_build_object('name', 'handbook.pdf', 'sha256', noise || noise))) END,
       3, 5
FROM (
    SELECT *, created_at + (waited + worked) * interval '1 second' AS completed_at,
           CASE WHEN fate < 0.94 THEN 'completed' WHEN fate < 0.99 THEN 'failed' ELSE 'cancelled' END AS status
    FROM (
        SELECT statement_timestamp() - $5::float8 * interval '1 day'
                   - ($4::float8 * 86400 * ($3::bigint - number) / $3 + 120) * interval '1 second' AS created_at,
               {DRAWN}
        FROM (SELECT number, random() AS kind FROM generate_series($1::bigint, $2::bigint) AS number) AS numbers
    ) AS drawn
) AS jobs_of_the_past
"""  # noqa: S608 - its parts are the constants above

# Of the live ones 2 % run, 3 % are their callers' own, 5 % are scheduled for later and the rest stand in the queue.
LIVE = f"""
INSERT INTO jobs (id, type, status, workspace_id, payload, metadata, items_total, attempt, worker_id, created_at,
                  queued_at, started_at, lease_expires_at, scheduled_at, priority)
SELECT {UUID7}, type, status, workspace, CASE status WHEN 'pending' THEN NULL ELSE {PAYLOAD} END, {METADATA}, items,
       CASE status WHEN 'processing' THEN 1 ELSE 0 END, CASE status WHEN 'processing' THEN 'worker-1' END, created_at,
       CASE WHEN status <> 'pending' THEN created_at END, CASE status WHEN 'processing' THEN created_at END,
       CASE status WHEN 'processing' THEN created_at + interval '7 days' END,
       CASE WHEN fate >= 0.95 THEN created_at + interval '7 days' END,
       CASE WHEN luck < 0.9 THEN 5 ELSE CAST(floor(10 * random()) AS integer) END
FROM (
    SELECT *, CASE WHEN fate < 0.02 THEN 'processing' WHEN fate < 0.05 THEN 'pending' ELSE 'queued' END AS status
    FROM (
        SELECT statement_timestamp() - (3600 * ($1::bigint - number) / $1::float8) * interval '1 second' AS created_at,
               {DRAWN}
        FROM (SELECT number, random() AS kind FROM generate_series(1, $1) AS number) AS numbers
    ) AS drawn
) AS jobs_of_now
"""  # noqa: S608 - its parts are the constants above

SECONDARY = """
SELECT indexname, indexdef FROM pg_indexes
WHERE schemaname = current_schema() AND tablename = 'jobs' AND indexname <> 'pk_jobs' ORDER BY indexname
"""


async def fill(connection: asyncpg.Connection, finished: int, live: int) -> float:
    """Write ``finished`` and ``live`` jobs into an empty ``jobs``; return how many seconds that took."""
    began = time.perf_counter()
    await connection.execute("SET statement_timeout = 0; SET maintenance_work_mem = '512MB'")
    await connection.execute(SEED)
    await connection.execute("ALTER TABLE jobs SET (autovacuum_enabled = false)")  # settle() does its work, once
    indexes = await connection.fetch(SECONDARY)
    for index in indexes:
        await connection.execute(f'DROP INDEX "{index["indexname"]}"')
    for first in range(1, finished + 1, CHUNK):
        last = min(first + CHUNK - 1, finished)
        await connection.execute(FINISHED, first, last, finished, float(DAYS), 0.0)
    await connection.execute(LIVE, live)
    for index in indexes:
        await connection.execute(index["indexdef"])
    await connection.execute("ALTER TABLE jobs RESET (autovacuum_enabled)")
    return time.perf_counter() - began


async def refill(connection: asyncpg.Connection, rows: int, days: float, before: float) -> None:
    """Write ``rows`` more finished jobs, spread over ``days`` that end ``before`` days ago; every index stays."""
    await connection.execute("SET statement_timeout = 0")
    for first in range(1, rows + 1, CHUNK):
        await connection.execute(FINISHED, first, min(first + CHUNK - 1, rows), rows, days, before)


async def roll_up(database: DatabaseManager) -> float:
    """Write the statistics of every closed hour, as the hourly task does; return how many seconds that took."""
    began = time.perf_counter()
    while True:
        async with database.get_transaction() as session:
            if not await JobRepository(session).roll_up():
                return time.perf_counter() - began


async def settle(connection: asyncpg.Connection) -> None:
    """Leave the tables as autovacuum would in a while."""
    for table in ("jobs", "statistics", "statistics_days", "statistics_created"):
        await connection.execute(f"VACUUM (ANALYZE) {table}")
    await connection.execute("CHECKPOINT")
