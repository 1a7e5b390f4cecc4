"""The record of truth of a run: every change of ``jobs`` and ``job_items``, and every effect of the engine.

The audit is a trigger that only this suite installs. It notes who wrote (the role of the connection), from what to
what, and how the job stood at that moment.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

CLIENT_ROLE = "chaos_client"

_AUDIT = """
CREATE TABLE chaos_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    txid bigint NOT NULL DEFAULT txid_current(),
    role text NOT NULL DEFAULT session_user,
    relation text NOT NULL,
    job_id uuid NOT NULL,
    position integer,
    old_status text, new_status text,
    old_attempt integer, new_attempt integer,
    old_worker text, new_worker text,
    old_version integer, new_version integer,
    old_crashes integer, new_crashes integer,
    lease_left double precision,
    scheduled_left double precision,
    parents_left integer,
    counts text,
    job_status text, job_attempt integer
);
CREATE TABLE chaos_effects (
    process integer NOT NULL, effect bigint NOT NULL, job_id uuid NOT NULL, item integer NOT NULL,
    attempt integer NOT NULL, kind text NOT NULL, begun_at double precision NOT NULL, ended_at double precision,
    how text, PRIMARY KEY (process, effect)
);
CREATE FUNCTION chaos_note_job() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    before jobs%ROWTYPE;
    after jobs%ROWTYPE;
BEGIN
    IF TG_OP <> 'INSERT' THEN before := OLD; END IF;
    IF TG_OP <> 'DELETE' THEN after := NEW; END IF;
    INSERT INTO chaos_audit (relation, job_id, old_status, new_status, old_attempt, new_attempt, old_worker, new_worker,
        old_version, new_version, old_crashes, new_crashes, lease_left, scheduled_left, parents_left, counts)
    VALUES ('jobs', coalesce(after.id, before.id), before.status, after.status, before.attempt, after.attempt,
        before.worker_id, after.worker_id, before.version, after.version,
        before.crashes + before.suspicion, after.crashes + after.suspicion,
        extract(epoch FROM before.lease_expires_at - clock_timestamp()),
        extract(epoch FROM before.scheduled_at - clock_timestamp()), before.parents_left,
        concat_ws('/', after.items_done, after.items_failed, after.items_skipped, after.items_total));
    RETURN NULL;
END $$;
CREATE FUNCTION chaos_note_item() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    before job_items%ROWTYPE;
    after job_items%ROWTYPE;
    holder record;
BEGIN
    IF TG_OP <> 'INSERT' THEN before := OLD; END IF;
    IF TG_OP <> 'DELETE' THEN after := NEW; END IF;
    SELECT status, attempt, worker_id INTO holder FROM jobs WHERE id = coalesce(after.job_id, before.job_id);
    INSERT INTO chaos_audit (relation, job_id, position, old_status, new_status, old_attempt, new_attempt, new_worker,
        job_status, job_attempt)
    VALUES ('job_items', coalesce(after.job_id, before.job_id), coalesce(after.position, before.position),
        before.status, after.status, before.attempt, after.attempt, holder.worker_id, holder.status, holder.attempt);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_audit AFTER INSERT OR UPDATE OR DELETE ON jobs
    FOR EACH ROW EXECUTE FUNCTION chaos_note_job();
CREATE TRIGGER chaos_audit AFTER INSERT OR UPDATE OR DELETE ON job_items
    FOR EACH ROW EXECUTE FUNCTION chaos_note_item();
"""


@dataclass(frozen=True)
class Change:
    """One row of the audit. ``at`` is in seconds since the epoch; ``lease_left`` and ``scheduled_left`` in seconds."""

    id: int
    at: float
    txid: int
    role: str
    relation: str
    job_id: UUID
    position: int | None = None
    old_status: str | None = None
    new_status: str | None = None
    old_attempt: int | None = None
    new_attempt: int | None = None
    old_worker: str | None = None
    new_worker: str | None = None
    old_version: int | None = None
    new_version: int | None = None
    old_crashes: int | None = None
    new_crashes: int | None = None
    lease_left: float | None = None
    scheduled_left: float | None = None
    parents_left: int | None = None
    counts: str | None = None
    job_status: str | None = None
    job_attempt: int | None = None

    def __str__(self) -> str:
        what = "job" if self.position is None else f"item {self.position}"
        told = f"#{self.id} tx {self.txid} {self.role}: {what} {self.old_status} -> {self.new_status}"
        told += f", attempt {self.old_attempt} -> {self.new_attempt}"
        if self.position is not None:
            return f"{told}, while the job was {self.job_status} in attempt {self.job_attempt}"
        worker = f", worker {self.old_worker} -> {self.new_worker}" if self.old_worker != self.new_worker else ""
        lease = "" if self.lease_left is None else f", lease left {self.lease_left:.2f} s"
        return f"{told}{worker}{lease}, items {self.counts}"


@dataclass(frozen=True)
class Effect:
    """One effect of the engine; ``ended_at`` and ``how`` are ``None`` if the process died within it."""

    process: int
    effect: int
    job_id: UUID
    item: int
    attempt: int
    kind: str
    begun_at: float
    ended_at: float | None = None
    how: str | None = None

    def __str__(self) -> str:
        ended = "never ended" if self.ended_at is None else f"{self.how} after {self.ended_at - self.begun_at:.2f} s"
        return f"process {self.process}, attempt {self.attempt}: {self.kind} item {self.item}, {ended}"


async def install(connection: asyncpg.Connection, roles: Iterable[str], password: str) -> None:
    """Install the audit, and make roles that own what the connection's own role owns."""
    await connection.execute(_AUDIT)
    owner = await connection.fetchval("SELECT quote_ident(current_user)")
    # A verifier made once: making one for each of hundreds of roles would take seconds.
    await connection.execute(f"CREATE ROLE chaos_template PASSWORD '{password}'")
    verifier = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'chaos_template'")
    await connection.execute(
        "".join(f"CREATE ROLE {role} LOGIN PASSWORD '{verifier}' IN ROLE {owner};" for role in roles)
    )


async def load_changes(connection: asyncpg.Connection) -> list[Change]:
    """Return the whole audit, in the order of its ids."""
    columns = ", ".join(name for name in Change.__dataclass_fields__ if name not in {"id", "at"})
    rows = await connection.fetch(
        f"SELECT id, extract(epoch FROM at)::double precision AS at, {columns} FROM chaos_audit ORDER BY id"  # noqa: S608 - our own names
    )
    return [Change(**dict(row)) for row in rows]


def read_journal(path: Path, process: int) -> list[Effect]:
    """Return the effects of one worker process; a line that ``kill -9`` cut short is left out."""
    if not path.exists():
        return []
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_text().split("\n"):
        if line.endswith("}"):
            event = json.loads(line)
            found.setdefault(event["effect"], {}).update(event)
    return [
        Effect(
            process,
            event["effect"],
            UUID(event["job"]),
            event["position"],
            event["attempt"],
            event["kind"],
            event["begun_at"],
            event.get("ended_at"),
            event.get("how"),
        )
        for event in found.values()
    ]


async def store_effects(connection: asyncpg.Connection, effects: Iterable[Effect]) -> None:
    """Put the effects beside the audit, so that both can be asked in SQL."""
    columns = list(Effect.__dataclass_fields__)
    await connection.copy_records_to_table(
        "chaos_effects", records=[tuple(vars(effect).values()) for effect in effects], columns=columns
    )
