"""``worker workspaces``: which there are, and making one new from its documents."""

import json
from typing import Annotated

import typer
from rich.text import Text

from worker.cli.console import Rows
from worker.cli.context import connected, exit_with, fail, out, run
from worker.cli.exits import Exit
from worker.cli.upload import ended
from worker.visible import one_line
from worker.watch import View, facts, follow
from worker.workspace_views import WorkspaceView

app = typer.Typer(
    help="Which workspaces there are; make one new from its documents.",
    rich_markup_mode="markdown",
    invoke_without_command=True,
)

Json = Annotated[bool, typer.Option("--json", help="JSON objects, one a line, for scripts.")]


@app.callback()
def workspaces(context: typer.Context, as_json: Json = False) -> None:
    """List the workspaces that jobs made or used; or change one with a command below."""
    if context.invoked_subcommand is None:
        run(_list(as_json=as_json))


async def _list(*, as_json: bool) -> None:
    async with connected() as (client, _):
        found = await client.workspaces()
    if as_json:
        for workspace in found:
            out.out(workspace.model_dump_json(), highlight=False)
        return
    if not found:
        out.print("no workspaces: upload documents into one with `worker upload FILES --workspace NAME`")
        return
    table = Rows(box=None, pad_edge=False, header_style="dim")
    for name in ("workspace", "slug", "documents", "made", ""):
        table.add_column(name, justify="right" if name == "documents" else "left")
    for each in found:
        told = Text(_told(each), style="yellow")
        table.add_row(
            one_line(each.name), one_line(each.slug), f"{each.documents:,}", f"{each.created_at:%Y-%m-%d %H:%M}", told
        )
    out.print(table)


def _told(workspace: WorkspaceView) -> str:
    if workspace.is_being_rebuilt:
        return "is being rebuilt: uploads and questions wait"
    if workspace.orphans_seen_at is not None:
        return "holds text of no document: `worker workspaces rebuild`"
    return ""


@app.command()
def rebuild(
    name: Annotated[str, typer.Argument(help="The workspace's name.", metavar="NAME")],
    yes: Annotated[bool, typer.Option("--yes", help="Its chats and threads may go.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Make a workspace new from the documents that stand in it, so that it holds their vectors and no others.

    AnythingLLM can only delete a workspace and make it again: its settings are kept, **its chats and threads go**. It
    keeps its slug unless it was renamed since it was made; the job's result tells the slug. Uploads and questions wait
    meanwhile.
    """
    exit_with(run(_rebuild(name, yes=yes, wait=wait, as_json=as_json)))


async def _rebuild(name: str, *, yes: bool, wait: bool, as_json: bool) -> Exit:
    async with connected() as (client, _):
        known = {workspace.name for workspace in await client.workspaces()}
        if name not in known:
            fail(f"there is no workspace {one_line(name)!r}: `worker workspaces` lists them", Exit.USAGE)
        if not yes:
            fail(f"the chats and threads of {one_line(name)} will go: say --yes if they may", Exit.USAGE)
        job = await client.rebuild_workspace(name)
        if not wait:
            out.out(json.dumps(facts(job)) if as_json else str(job.id), highlight=False)
            return Exit.OK
        (job,) = await follow(client, [job.id], out, View.JSON if as_json else View.AUTO)
        return ended(job)
