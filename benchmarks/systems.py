"""The systems that are compared: what each is, what it needs, and how patient the harness is with it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """One system under test; ``peers/<name>.py`` speaks for it.

    Attributes:
        name: on the command line and in the results.
        title: on plots and in tables.
        packages: what its own environment holds, pinned; empty for those that run in the project's own.
        uses_postgresql, uses_redis: which servers it talks to.
        records: what it writes down of a job, in a few words.
        concurrency: jobs at a time of one worker process (pgqueuer: its batch size).
        jobs_share: of the jobs asked for, how many it is given to drain, so that the slow ones end.
        recovery_cap_seconds: how long to wait for a dead worker's job before "not within".
        recovery_share: of the tries asked for, how many this system gets, because each takes so long.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    uses_postgresql: bool
    uses_redis: bool
    records: str
    concurrency: int
    jobs_share: float
    recovery_cap_seconds: float
    recovery_share: float


OURS = System(
    name="ours",
    title="anythingllm-worker",
    packages=(),
    uses_postgresql=True,
    uses_redis=True,
    records="row: every time, attempt, lease, errors",
    concurrency=500,
    jobs_share=1.0,
    recovery_cap_seconds=30.0,
    recovery_share=1.0,
)
SYSTEMS = {
    system.name: system
    for system in (
        OURS,
        System(
            name="arq",
            title="arq",
            packages=(),
            uses_postgresql=False,
            uses_redis=True,
            records="nothing",
            concurrency=100,
            jobs_share=0.25,
            recovery_cap_seconds=330.0,
            recovery_share=0.05,
        ),
        System(
            name="naive",
            title="arq + UPDATEs",
            packages=(),
            uses_postgresql=True,
            uses_redis=True,
            records="row: three times",
            concurrency=100,
            jobs_share=0.15,
            recovery_cap_seconds=330.0,
            recovery_share=0.05,
        ),
        System(
            name="pgqueuer",
            title="pgqueuer",
            packages=("pgqueuer[asyncpg]==1.6.0", "uvloop==0.23.0"),
            uses_postgresql=True,
            uses_redis=False,
            records="log entry of each state",
            concurrency=100,
            jobs_share=1.0,
            recovery_cap_seconds=60.0,
            recovery_share=0.15,
        ),
        System(
            name="procrastinate",
            title="procrastinate",
            packages=("procrastinate==3.10.0", "psycopg[binary]==3.3.9"),
            uses_postgresql=True,
            uses_redis=False,
            records="row, event of each state",
            concurrency=10,
            jobs_share=0.15,
            recovery_cap_seconds=150.0,
            recovery_share=0.1,
        ),
        System(
            name="saq",
            title="saq",
            packages=("saq[redis,hiredis]==0.26.4", "typing-extensions==4.16.0"),
            uses_postgresql=False,
            uses_redis=True,
            records="nothing",
            concurrency=100,
            jobs_share=0.25,
            recovery_cap_seconds=90.0,
            recovery_share=0.15,
        ),
        System(
            name="streaq",
            title="streaq",
            packages=("streaq==7.2.0", "uvloop==0.23.0"),
            uses_postgresql=False,
            uses_redis=True,
            records="nothing",
            concurrency=100,
            jobs_share=0.5,
            recovery_cap_seconds=150.0,
            recovery_share=0.1,
        ),
    )
}
RAW_LIMIT = "raw_limit"
