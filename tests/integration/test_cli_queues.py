"""The commands about queues and workers, and why a job waits."""

import asyncio
import json
from pathlib import Path

from redis import Redis

from tests.integration.test_cli import NOBODY, Worker, folder, worker
from tests.integration.test_registry import live_worker
from worker.cli.exits import Exit
from worker.queue import connect
from worker.registry import Registry

__all__ = ["folder", "worker"]  # fixtures


def test_a_queue_is_paused_limited_listed_and_resumed(worker: Worker, folder: Path) -> None:
    worker("upload", str(folder), "--workspace", "handbook", "--queue", "slow")

    paused = worker("queues", "pause", "slow", "--reason", "disk full", "--by", "ann")
    limited = worker("queues", "limit", "slow", "--max-running", "2", "--max-per-minute", "60", "--json")
    (row,) = [json.loads(line) for line in worker("queues", "--json").out.splitlines()]
    table = worker("queues")
    resumed = worker("queues", "resume", "slow")
    half = worker("queues", "limit", "slow", "--max-running", "3", "--none")

    assert (paused.status, paused.out.strip()) == (Exit.OK, "slow is paused")
    assert json.loads(limited.out) == {"name": "slow", "max_running": 2, "max_per_minute": 60}
    assert (row["name"], row["waiting"], row["paused_by"], row["pause_reason"]) == ("slow", 1, "ann", "disk full")
    assert "2 at a time, 60 a minute" in table.out
    assert "by ann: disk full" in table.out
    assert resumed.out.strip() == "slow is resumed"
    assert half.out.strip() == "slow: 3 at a time"
    assert worker("queues", "resume", "slow").out.strip() == "slow was not paused"


def test_wrong_names_and_limits_are_wrong_usage(worker: Worker, folder: Path) -> None:
    assert worker("queues", "pause", "no such name").status == Exit.USAGE
    assert worker("queues", "limit", "slow").status == Exit.USAGE
    assert worker("queues", "limit", "slow", "--max-running", "0").status == Exit.USAGE
    assert worker("upload", str(folder), "--workspace", "w", "--queue", "a b").status == Exit.USAGE


def test_why_and_status_tell_where_a_job_stands(worker: Worker, folder: Path, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.flushdb()  # what another test left would stand before this job
    job_id = worker("upload", str(folder), "--workspace", "handbook").out.strip()

    alone = worker("jobs", "why", job_id)
    worker("queues", "pause", "default", "--by", "ann")
    paused = json.loads(worker("jobs", "why", job_id, "--json").out)
    unknown = worker("jobs", "why", NOBODY)
    status = json.loads(worker("jobs", "status", job_id, "--json").out)
    line = worker("jobs", "status", job_id)

    assert (alone.status, alone.out.strip()) == (Exit.OK, "no worker lives: start one with `worker run`")
    assert (paused["reason"], paused["data"]["paused_by"]) == ("queue_paused", "ann")
    assert (unknown.status, unknown.out.startswith("there is no job")) == (Exit.FAILED, True)
    assert (status["status"], status["queue_position"], status["eta"]) == ("queued", 1, None)
    assert line.out.split()[1] == "document_upload"


def test_the_workers_that_live_are_listed(worker: Worker, redis_url: str) -> None:
    async def announce() -> None:
        redis = connect(redis_url)
        await redis.flushdb()
        await Registry(redis).announce(live_worker())
        await redis.aclose(close_connection_pool=True)

    none = worker("workers")
    asyncio.run(announce())
    (listed,) = worker("workers", "--json").out.splitlines()

    assert none.out.strip() == "no worker lives: start one with `worker run`"
    assert (json.loads(listed)["id"], json.loads(listed)["running"]) == ("host-1-abcd", 2)
    assert "host-1-abcd" in worker("workers").out
