"""Jobs that make and remove workspaces, and what the record says of them afterwards."""

from repositories.workspaces import WorkspaceRepository
from tests.engines import NotingEngine
from worker.client import JobClient
from worker.execution import execute
from worker.run import Runtime


class RemakingEngine(NotingEngine):
    """Takes a workspace off the record as it deletes it; an upload then makes it anew before the job goes on."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._database = runtime.database

    async def delete_workspace(self, slug: str) -> bool:
        removed = await super().delete_workspace(slug)
        async with self._database.get_transaction() as session:
            workspaces = WorkspaceRepository(session, self.name)
            await workspaces.forget(slug)
            await workspaces.register(slug.removeprefix("slug-"), slug)
        return removed


async def known(runtime: Runtime, name: str) -> bool:
    async with runtime.database.get_session() as session:
        return await WorkspaceRepository(session, runtime.engine.name).get(name) is not None


async def test_a_workspace_that_is_made_anew_during_its_deletion_stays_on_the_record(
    client: JobClient, runtime: Runtime
) -> None:
    await execute(runtime, str((await client.create_workspace("handbook")).id))
    runtime.engine = RemakingEngine(runtime)
    job = await client.delete_workspace("handbook")
    await execute(runtime, str(job.id))
    assert ((await client.status(job.id)).result or {})["removed"] is True
    assert await known(runtime, "handbook")
