"""Workspaces that are rebuilt: asking for it, and staying out meanwhile, while one holds a part of its documents."""

from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

from repositories.jobs import JobRepository, Waiting
from repositories.schemas import NewJob
from repositories.states import JobType
from repositories.workspaces import WorkspaceRepository
from worker.errors import Snooze
from worker.payloads import WorkspacePayload
from worker.queue import QueueUnavailableError
from worker.run import Run

_AGAIN = timedelta(seconds=5)


async def stay_out(run: Run, workspace: str) -> datetime | None:
    """Return when the workspace was rebuilt last, ``None`` if it never was or is not on the record.

    Raises:
        Snooze: it is being rebuilt now.
    """
    runtime = run.runtime
    async with runtime.database.get_session() as session:
        found = await WorkspaceRepository(session, runtime.engine.name).get(workspace)
    if found is None:
        return None
    if found.rebuild is not None:
        raise Snooze(_AGAIN, f"workspace {workspace} is being rebuilt")
    return found.rebuilt_at


async def check_stayed(run: Run, workspace: str, rebuilt_at: datetime | None) -> None:
    """Refuse what was seen in the workspace if it was rebuilt meanwhile.

    Args:
        run: the attempt.
        workspace: its name.
        rebuilt_at: what :func:`stay_out` returned before.

    Raises:
        Snooze: it was, or is being.
    """
    if await stay_out(run, workspace) != rebuilt_at:
        raise Snooze(_AGAIN, f"workspace {workspace} was rebuilt meanwhile")


async def ask_for_rebuild(run: Run, workspace: str) -> UUID | None:
    """Enqueue the rebuild of a workspace that holds vectors of nobody, once, if ``ANYTHINGLLM_REBUILD`` says so.

    Returns:
        The rebuild's id; ``None`` if none is needed or wanted.
    """
    runtime = run.runtime
    if not runtime.settings.anythingllm_rebuild:
        return None
    async with runtime.database.get_transaction() as session:
        found = await WorkspaceRepository(session, runtime.engine.name).get(workspace)
        if found is None or found.orphans_seen_at is None:
            return None
        new = NewJob(
            type=JobType.WORKSPACE_REBUILD,
            workspace_id=workspace,
            payload=WorkspacePayload(workspace=workspace).model_dump(mode="json"),
            queue=run.job.queue,
            idempotency_key=f"rebuild {found.engine} {found.id} {found.orphans_seen_at.isoformat()}",
        )
        (job,) = await JobRepository(session).create_many([new])
    with suppress(QueueUnavailableError):  # the reconciler hands it over
        await runtime.queue.hand_over([Waiting(job.id, job.type, job.priority, job.queue)])
    return job.id
