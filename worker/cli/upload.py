"""``worker upload``: put files, links and objects into a workspace; plan it first, or keep following a folder."""

import json
import os
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from repositories.models import Job
from repositories.queue_names import DEFAULT_QUEUE
from repositories.states import JobStatus
from worker.cli.console import Rows
from worker.cli.context import connected, err, exit_with, note, out, run
from worker.cli.exits import Exit
from worker.cli.following import follow_folder
from worker.client import JobClient
from worker.files import FileSource, NoFilesError, look_for_files
from worker.payloads import ObjectSource, OnDuplicate
from worker.reports import failed_items
from worker.uploads.planning import Fate, PlannedFile
from worker.visible import one_line
from worker.watch import View, facts, follow

_MOST_LINKS = 5
_MOST_SHOWN = 20
_LONGEST_LABEL = 255
_STYLES = {
    Fate.NEW: "green",
    Fate.CHANGED: "yellow",
    Fate.UNCHANGED: "dim",
    Fate.DUPLICATE: "dim",
    Fate.UNSUPPORTED: "red",
    Fate.ORPHANED: "magenta",
}

Queue = Annotated[str, typer.Option(help="Which queue the job stands in.")]


def upload(  # noqa: PLR0913, PLR0917 - an option each
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Its name; made if it is new.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders; archives are opened.", metavar="PATH...")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Only files of folders that fit, as `**/*.pdf`. May be given often.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No files of folders that fit. May be given often.")] = None,
    link: Annotated[list[str] | None, typer.Option(help="An http(s) address to fetch. May be given often.")] = None,
    from_object: Annotated[
        list[str] | None,
        typer.Option(
            "--object", help="A key, or a prefix with / at its end, below OBJECT_SOURCES. May be given often."
        ),
    ] = None,
    on_duplicate: Annotated[
        OnDuplicate,
        typer.Option(
            help="skip: same content once. replace: and a new version takes the old one's place. add: always."
        ),
    ] = OnDuplicate.SKIP,
    source: Annotated[
        str | None, typer.Option(help="A label of this set, for --sync. Default: the paths and patterns.")
    ] = None,
    sync: Annotated[
        bool, typer.Option("--sync", help="Replace changed documents, and remove those that the set holds no more.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on: upload what changes, until Ctrl-C.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Read symbolic links to files in folders. Else they are left out.")
    ] = False,
    priority: Annotated[int, typer.Option(min=0, max=9, help="0 is first, 9 is last.")] = 5,
    queue: Queue = DEFAULT_QUEUE,
    as_json: Annotated[bool, typer.Option("--json", help="JSON objects, one a line, for scripts.")] = False,
) -> None:
    """Put documents into a workspace and make them searchable.

    A document that cannot be read or understood fails alone; the others go on. Without --wait the job's id is printed
    and the command ends at once. With --wait: status 3 if some documents failed, 1 if the job failed.
    """
    if sync and on_duplicate is OnDuplicate.SKIP:
        on_duplicate = OnDuplicate.REPLACE
    where = _Where(paths or [], include or [], exclude or [], source, sync=sync, follow=follow_symlinks)
    fields: dict[str, Any] = {
        "links": link or [],
        "objects": [ObjectSource(url=url, include=include or (), exclude=exclude or ()) for url in from_object or []],
        "on_duplicate": on_duplicate,
        "source": where.source,
        "sync": sync,
        "priority": priority,
        "queue": queue,
    }
    if dry_run:
        if where.paths and (link or from_object):
            err.print("links and objects are not looked at: workers alone read them", style="dim", highlight=False)
        exit_with(run(_plan(workspace, where, sync=sync, as_json=as_json)))
    elif watch:
        exit_with(run(_watch(workspace, where, fields, as_json=as_json)))
    else:
        exit_with(run(_upload(workspace, where, fields, wait=wait, as_json=as_json)))


class _Where:
    """The paths that were named, and what they are called together."""

    def __init__(
        self,
        paths: list[Path],
        include: list[str],
        exclude: list[str],
        source: str | None,
        *,
        sync: bool,
        follow: bool,
    ) -> None:
        self.paths, self._include, self._exclude, self._sync, self._follow = paths, include, exclude, sync, follow
        self._said: set[Path] = set()
        self.source = source or (_label(paths, include, exclude) if paths else None)

    def find(self) -> list[FileSource]:
        """The files there are now; none if no path was named."""
        if not self.paths:
            return []
        try:
            found = look_for_files(self.paths, self._include, self._exclude, follow=self._follow)
        except NoFilesError as error:
            if not self._sync:
                raise
            why = "nothing is removed either, because a sync is a job, and a job needs a document"
            raise NoFilesError(f"{error}; {why}") from None
        removed = "; a sync removes what was uploaded through them" if self._sync else ""
        self._say_left_out(found.links, "", f"{removed}: --follow-symlinks reads them")
        self._say_left_out(found.folders, " to a folder", ": name what is meant itself", " to folders")
        return found.files

    def _say_left_out(self, links: list[Path], kind: str, hint: str, kinds: str = "") -> None:
        """Name the links that were left out, each once."""
        if new := [link for link in links if link not in self._said]:
            self._said.update(new)
            named = ", ".join(map(str, new[:_MOST_LINKS])) + (", …" if len(new) > _MOST_LINKS else "")
            what = f"symbolic link{kind} is" if len(new) == 1 else f"symbolic links{kinds} are"
            note(f"{len(new)} {what} left out ({named}){hint}", "yellow")


def _label(paths: list[Path], include: list[str], exclude: list[str]) -> str:
    """The paths as one label, ending in a digest if it is long or there are patterns: no two sets have the same."""
    label = " ".join(sorted(str(path.resolve()) for path in paths))
    whole = label
    if include or exclude:
        whole = json.dumps([label, sorted(set(include)), sorted(set(exclude))])
    elif len(label) <= _LONGEST_LABEL:
        return label
    digest = sha256(os.fsencode(whole)).hexdigest()
    return f"{label[: _LONGEST_LABEL - len(digest) - 1]} {digest}"


async def _upload(workspace: str, where: _Where, fields: dict[str, Any], *, wait: bool, as_json: bool) -> Exit:
    files = where.find()
    async with connected() as (client, _):
        job = await client.upload_documents(workspace, files, **fields)
        if not wait:
            out.out(json.dumps(facts(job)) if as_json else str(job.id), highlight=False)
            return Exit.OK
        if not as_json:
            named = len(files) + len(fields["links"]) + len(fields["objects"])
            note(f"{named} sources for {workspace!r}, job {job.id}")
        return await _follow(client, job, as_json=as_json)


async def _follow(client: JobClient, job: Job, *, as_json: bool) -> Exit:
    started = time.monotonic()
    (job,) = await follow(client, [job.id], out, View.JSON if as_json else View.AUTO)
    if not as_json:
        _summary(job, time.monotonic() - started)
        failed = failed_items(await client.items(job.id))
        for item in failed[:_MOST_SHOWN]:
            err.print(f"  {one_line(item.error or '')} [{item.error_code}]", style="red", highlight=False)
        if len(failed) > _MOST_SHOWN:
            err.print(f"  and {len(failed) - _MOST_SHOWN} more: worker jobs show {job.id} --items", style="red")
        if failed:
            err.print(f"  again: worker jobs retry {job.id} --failed-items", style="dim", highlight=False)
    return ended(job)


async def _plan(workspace: str, where: _Where, *, sync: bool, as_json: bool) -> Exit:
    if not where.paths:
        raise NoFilesError("--dry-run looks at files and folders: name one (workers alone read links and objects)")
    files = where.find()
    async with connected() as (client, _):
        planned = await client.plan_upload(workspace, files, where.source)
    if not sync:
        planned = [one for one in planned if one.fate is not Fate.ORPHANED]
    fails = any(one.fate is Fate.UNSUPPORTED for one in planned)
    for one in planned:
        if as_json:
            out.out(json.dumps(one._asdict() | {"fate": str(one.fate)}), highlight=False)
        elif one.fate is not Fate.UNCHANGED:
            out.print(
                f"  {one.fate:<11} {one_line(one.name)}{one_line(_about(one))}",
                style=_STYLES[one.fate],
                highlight=False,
            )
    if not as_json:
        counts = Counter(one.fate for one in planned)
        told = ", ".join(f"{counts[fate]} {fate}" for fate in Fate if counts[fate])
        out.print(f"{told or 'nothing'}; nothing was done", highlight=False)
        if sync and fails:
            out.print("a sync would remove nothing, because some documents would fail", highlight=False)
    return Exit.PARTLY if fails else Exit.OK


def _about(one: PlannedFile) -> str:
    if one.about is None:
        return ""
    return f"  is the same as {one.about}" if one.fate is Fate.DUPLICATE else f"  {one.about} [{one.code}]"


async def _watch(workspace: str, where: _Where, fields: dict[str, Any], *, as_json: bool) -> Exit:
    async with connected() as (client, _):

        async def upload_now(changed: set[Path] | None) -> None:
            """All of the set, or only what changed: a sync needs all of it."""
            files = where.find()
            asked = fields
            if changed is not None and not fields["sync"]:
                files = [one for one in files if isinstance(one.content, Path) and one.content.absolute() in changed]
                # A file that is written again is a new version of itself. Links and objects tell of no change.
                asked = fields | {"on_duplicate": OnDuplicate.REPLACE, "links": [], "objects": []}
            if files:
                await _follow(client, await client.upload_documents(workspace, files, **asked), as_json=as_json)

        await follow_folder(where.paths, upload_now)
    return Exit.OK


def ended(job: Job) -> Exit:
    """The exit status that tells how a job ended."""
    if job.status is not JobStatus.COMPLETED:
        return Exit.FAILED
    return Exit.PARTLY if job.items_failed else Exit.OK


def _summary(job: Job, seconds: float) -> None:
    done = job.items_done + job.items_skipped
    table = Rows.grid(padding=(0, 2))
    rate = f"{done / seconds:,.0f} documents/s" if seconds else ""
    table.add_row(
        f"{job.status}:",
        f"{job.items_done} stored",
        f"{job.items_skipped} were there already",
        f"{job.items_failed} failed",
        f"{seconds:.1f} s",
        rate,
    )
    out.print(table)
    if job.error and job.status is not JobStatus.COMPLETED:
        err.print(f"  {one_line(job.error)}", style="red")
