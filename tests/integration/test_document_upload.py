"""``document_upload`` whole: sources, archives, duplicates, versions, sync, and what is told of each document."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from repositories.database import DatabaseManager
from repositories.documents import DocumentRepository
from repositories.models import Job, JobItem
from repositories.states import ItemStatus, JobStatus
from repositories.workspaces import WorkspaceRepository
from tests.archives import packed
from tests.engines import NotingEngine
from worker.client import JobClient, NothingToRetryError
from worker.engines.base import (
    DocumentMetadata,
    DocumentRejectedError,
    EngineRefusedError,
    StoredDocument,
    WorkspaceSettings,
    unnoticed,
)
from worker.execution import execute
from worker.files import FileSource, NoFilesError
from worker.payloads import ObjectSource, OnDuplicate
from worker.questions.question_set import Question, QuestionSet
from worker.run import Runtime
from worker.sources import ObjectSources
from worker.tasks.maintenance import sweep_documents


async def ran(client: JobClient, runtime: Runtime, job: Job) -> Job:
    await execute(runtime, str(job.id))
    return await client.status(job.id)


async def by_name(client: JobClient, job_id: UUID) -> dict[str, JobItem]:
    return {item.key: item for item in await client.items(job_id)}


async def standing(runtime: Runtime) -> dict[str, str]:
    """What stands in the workspace on the record: name and content, as the engine has it."""
    engine = runtime.engine
    assert isinstance(engine, NotingEngine)
    async with runtime.database.get_session() as session:
        workspace = await WorkspaceRepository(session, "noting").get_or_raise("handbook")
        documents = await DocumentRepository(session).standing(workspace.id)
    assert {place for document in documents for place in document.locations} == engine.documents.keys()
    return {document.name: document.sha256[:8] for document in documents}


async def test_a_document_is_told_with_all_that_is_known_of_it(client: JobClient, runtime: Runtime) -> None:
    content = "Die Pumpe braucht jeden Tag sieben Liter Öl und wird regelmäßig geprüft.".encode("latin-1")
    job = await ran(client, runtime, await client.upload_documents("handbook", [FileSource("a.txt", content)]))

    (item,) = await client.items(job.id)
    assert item.result is not None
    assert item.result | {"sha256": ""} == {
        "stage": "confirmed",
        "bytes": len(content.decode("latin-1").encode()),
        "sha256": "",
        "media_type": "text/plain",
        "charset": "cp1252",
        "words": 12,
        "passages": 1,
        "locations": [f"{job.id}/0"],
    }
    assert item.timings.keys() == {"read", "upload", "embed", "verify"}


class NeverSeenEngine(NotingEngine):
    """Embeds, and then never finds what it embedded."""

    async def embed(self, slug: str, stored: StoredDocument, *, on_embedded: Callable[[], None] = unnoticed) -> bool:
        await super().embed(slug, stored, on_embedded=on_embedded)
        raise DocumentRejectedError("not_embedded", "it has no vectors")


async def test_a_document_that_was_never_seen_has_the_time_of_looking_for_it(
    client: JobClient, runtime: Runtime
) -> None:
    runtime.engine = NeverSeenEngine()
    job = await ran(client, runtime, await client.upload_documents("handbook", [FileSource("a.txt", b"alpha")]))

    (item,) = await client.items(job.id)
    assert item.error_code == "not_embedded"
    assert item.timings.keys() == {"read", "upload", "embed", "verify"}


async def test_what_is_told_of_a_file_reaches_the_engine_also_with_each_file_of_an_archive(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    notes = DocumentMetadata(author="Ann Kestrel", description="notes of the night shift")
    files = [FileSource("note.txt", b"raw text", notes), FileSource("pack.zip", packed(a__txt=b"in a zip"), notes)]

    await ran(client, runtime, await client.upload_documents("handbook", [*files, FileSource("b.txt", b"bare")]))

    assert engine.metadata == {"note.txt": notes, "pack.zip/a.txt": notes, "b.txt": None}


async def test_archives_are_opened_in_one_another_and_what_is_no_document_is_counted(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    inner = packed(b__txt=b"inner text", __DS_Store=b"x")
    outer = packed(a__txt=b"outer text", **{"inner__zip": inner, "__MACOSX/a__txt": b"x", "bad__pdf": b""})

    job = await ran(client, runtime, await client.upload_documents("handbook", [FileSource("pack.zip", outer)]))

    items = await by_name(client, job.id)
    assert {name: item.error_code for name, item in items.items()} == {
        "pack.zip/a.txt": None,
        "pack.zip/inner.zip/b.txt": None,
        "pack.zip/bad.pdf": "empty",
    }
    assert job.result is not None
    assert job.result["left_out"] == {"hidden": 1, "macos": 1} or sum(job.result["left_out"].values()) == 2
    assert sorted(engine.added) == ["pack.zip/a.txt", "pack.zip/inner.zip/b.txt"]


async def test_a_bomb_a_path_outside_and_an_endless_nest_are_refused_with_the_reason(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    bomb = packed(zeros__txt=b"0" * 50_000_000)
    outside = packed(**{"../../etc/passwd__txt": b"root", "good__txt": b"good"})
    nest = packed(a__txt=b"deep")
    for _ in range(5):
        nest = packed(more__zip=nest)
    runtime.settings = runtime.settings.model_copy(update={"max_archive_ratio": 100})
    runtime.sources = replace(runtime.sources, bounds=runtime.sources.bounds._replace(ratio=100))
    files = [FileSource("bomb.zip", bomb), FileSource("outside.zip", outside), FileSource("nest.zip", nest)]

    job = await ran(client, runtime, await client.upload_documents("handbook", files))

    items = await by_name(client, job.id)
    codes = {name.partition("/")[0]: item.error_code for name, item in items.items() if item.error_code}
    assert codes == {"bomb.zip": "too_large", "outside.zip": "unsafe_name", "nest.zip": "archive_too_deep"}
    assert engine.added == ["outside.zip/good.txt"]


async def test_the_same_content_again_is_skipped_and_never_sent(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    first = await client.upload_documents("handbook", [FileSource("a.txt", b"one"), FileSource("b.txt", b"two")])
    await ran(client, runtime, first)

    again = await client.upload_documents("handbook", [FileSource("a.txt", b"one"), FileSource("copy.txt", b"two")])
    job = await ran(client, runtime, again)

    assert (job.items_skipped, job.items_done) == (2, 0)
    items = await by_name(client, job.id)
    assert {name: (item.result or {})["duplicate_of"] for name, item in items.items()} == {
        "a.txt": "a.txt",
        "copy.txt": "b.txt",
    }
    assert len(engine.added) == 2


async def test_a_new_version_takes_the_place_of_the_old_one_or_stands_beside_it(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    await ran(client, runtime, await client.upload_documents("handbook", [FileSource("a.txt", b"one")]))

    await ran(client, runtime, await client.upload_documents("handbook", [FileSource("a.txt", b"two")]))
    assert len(engine.documents) == 2

    newest = await client.upload_documents(
        "handbook", [FileSource("a.txt", b"three")], on_duplicate=OnDuplicate.REPLACE
    )
    job = await ran(client, runtime, newest)
    assert (job.result or {})["replaced"] == 2
    assert list(await standing(runtime)) == ["a.txt"]
    assert list(engine.documents) == [f"{job.id}/0"]


async def test_add_stores_the_same_content_once_more(client: JobClient, runtime: Runtime, engine: NotingEngine) -> None:
    for _ in range(2):
        job = await client.upload_documents("handbook", [FileSource("a.txt", b"one")], on_duplicate=OnDuplicate.ADD)
        await ran(client, runtime, job)

    assert len(engine.documents) == 2


async def test_a_sync_removes_what_its_source_holds_no_more_and_nothing_else(
    client: JobClient, runtime: Runtime
) -> None:
    await ran(client, runtime, await client.upload_documents("handbook", [FileSource("other.txt", b"by hand")]))
    files = [FileSource("a.txt", b"one"), FileSource("b.txt", b"two")]
    await ran(client, runtime, await client.upload_documents("handbook", files, source="folder", sync=True))

    half = await client.upload_documents(
        "handbook", [files[1], FileSource("bad.pdf", b"reject")], source="folder", sync=True
    )
    job = await ran(client, runtime, half)
    assert (job.result or {})["removed"] == 0
    assert set(await standing(runtime)) == {"a.txt", "b.txt", "other.txt"}, "a failed document must not cost others"

    whole = await client.upload_documents("handbook", files[1:], source="folder", sync=True)
    job = await ran(client, runtime, whole)
    assert (job.result or {})["removed"] == 1
    assert set(await standing(runtime)) == {"b.txt", "other.txt"}


async def test_a_renamed_file_keeps_its_place_in_a_synced_set(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    for name in ("a.txt", "z.txt"):
        files = [FileSource(name, b"one"), FileSource("b.txt", b"two")]
        await ran(client, runtime, await client.upload_documents("handbook", files, source="folder", sync=True))

    assert set(await standing(runtime)) == {"b.txt", "z.txt"}
    assert len(engine.added) == 2


async def test_a_sync_leaves_what_another_set_relies_on(client: JobClient, runtime: Runtime) -> None:
    ours, theirs = [FileSource("a.txt", b"one"), FileSource("b.txt", b"two")], [FileSource("copy.txt", b"one")]
    await ran(client, runtime, await client.upload_documents("handbook", ours, source="ours", sync=True))
    await ran(client, runtime, await client.upload_documents("handbook", theirs, source="theirs", sync=True))

    job = await client.upload_documents("handbook", ours[1:], source="ours", sync=True)
    assert ((await ran(client, runtime, job)).result or {})["removed"] == 0

    assert set(await standing(runtime)) == {"a.txt", "b.txt"}


async def test_two_documents_of_one_name_in_a_job_do_not_replace_each_other(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    files = [FileSource("same.txt", b"one"), FileSource("same.txt", b"two")]

    await ran(client, runtime, await client.upload_documents("handbook", files, on_duplicate=OnDuplicate.REPLACE))

    assert sorted(engine.documents.values()) == [b"one", b"two"]


async def test_an_item_that_waits_for_the_same_content_goes_on_when_its_holder_fails(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    files = [FileSource("a.txt", b"crash"), FileSource("b.txt", b"crash"), FileSource("c.txt", b"fine")]
    job = await client.upload_documents("handbook", files, max_attempts=1)

    async with asyncio.timeout(20):
        after = await ran(client, runtime, job)

    assert {item.key: item.error_code for item in await client.items(job.id)} == {
        "a.txt": "unexpected_error",
        "b.txt": "unexpected_error",
        "c.txt": None,
    }
    assert after.status is JobStatus.COMPLETED


async def test_a_workspace_that_is_removed_meanwhile_is_told_and_made_again(
    client: JobClient, runtime: Runtime, engine: NotingEngine, database: DatabaseManager
) -> None:
    engine.gate.clear()
    job = await client.upload_documents("handbook", [FileSource("a.txt", b"one")])
    running = asyncio.create_task(execute(runtime, str(job.id)))
    await asyncio.wait_for(engine.entered.wait(), 10)
    async with database.get_transaction() as session:
        assert await WorkspaceRepository(session, "noting").forget("slug-handbook")
    engine.gate.set()
    await asyncio.wait_for(running, 10)

    after = await client.status(job.id)
    assert (after.status, after.errors[-1]["code"], after.crashes) == (JobStatus.QUEUED, "workspace_gone", 0)


async def test_what_somebody_removed_from_the_engine_is_stored_again(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    first = await client.upload_documents("handbook", [FileSource("a.txt", b"one")])
    await ran(client, runtime, first)
    engine.documents.clear()

    job = await ran(client, runtime, await client.upload_documents("handbook", [FileSource("a.txt", b"one")]))

    assert (job.items_done, job.items_skipped) == (1, 0)
    assert list(engine.documents) == [f"{job.id}/0"]


async def test_two_jobs_with_the_same_contents_at_once_store_each_once(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    files = [FileSource(f"{n}.txt", b"text %d" % n) for n in range(12)]
    jobs = [await client.upload_documents("handbook", files) for _ in range(2)]

    await asyncio.gather(*(execute(runtime, str(job.id)) for job in jobs))

    ended = [await client.status(job.id) for job in jobs]
    assert [job.status for job in ended] == [JobStatus.COMPLETED] * 2
    assert sum(job.items_done for job in ended) == sum(job.items_skipped for job in ended) == 12
    assert len(engine.documents) == 12


async def test_an_item_stored_by_an_attempt_that_could_not_say_so_is_not_stored_again(
    client: JobClient, runtime: Runtime, engine: NotingEngine, database: DatabaseManager
) -> None:
    job = await client.upload_documents("handbook", [FileSource("a.txt", b"one"), FileSource("b.txt", b"crash")])
    await ran(client, runtime, job)  # b.txt: an error that is tried again
    async with database.get_transaction() as session:  # as if the worker had died before it could write the item
        await session.execute(text("UPDATE job_items SET status = 'pending', result = NULL, finished_at = NULL"))
        await session.execute(text("UPDATE jobs SET scheduled_at = NULL, items_done = 0, progress = 0"))
    engine.trouble_is_over = True

    after = await ran(client, runtime, job)

    assert (after.status, after.items_done, after.attempt) == (JobStatus.COMPLETED, 2, 2)
    assert engine.added.count("a.txt") == 1


async def test_objects_below_an_allowed_prefix_are_read_and_others_are_refused(
    client: JobClient, runtime: Runtime, engine: NotingEngine, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "deep").mkdir(parents=True)
    (inbox / "a.txt").write_text("first")
    (inbox / "deep" / "b.md").write_text("# second")
    (inbox / "deep" / "c.log").write_text("third")
    (inbox / "pack.zip").write_bytes(packed(d__txt=b"fourth"))
    (tmp_path / "secret.txt").write_text("secret")
    runtime.sources = replace(runtime.sources, objects=ObjectSources([f"{inbox.as_uri()}/"]))
    objects = [
        ObjectSource(url=f"{inbox.as_uri()}/", exclude=("*.log",)),
        ObjectSource(url=f"{tmp_path.as_uri()}/secret.txt"),
    ]

    job = await ran(client, runtime, await client.upload_documents("handbook", objects=objects))

    items = await by_name(client, job.id)
    assert {name: item.error_code for name, item in items.items() if item.error_code is None} == {
        "a.txt": None,
        "deep/b.md": None,
        "pack.zip/d.txt": None,
    }
    assert [item.error_code for item in items.values() if item.error_code] == ["object_forbidden"]
    assert sorted(engine.added) == ["a.txt", "deep/b.md", "pack.zip/d.txt"]


async def test_an_object_whose_name_or_url_is_too_long_fails_alone_and_is_named(
    client: JobClient, runtime: Runtime, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    for name in ("a.txt", "/".join(["n" * 200] * 6), "/".join(["é" * 120] * 8)):  # as URLs their signs take six each
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        (inbox / name).write_text("text")
    runtime.sources = replace(runtime.sources, objects=ObjectSources([f"{inbox.as_uri()}/"]))

    job = await client.upload_documents("handbook", objects=[ObjectSource(url=f"{inbox.as_uri()}/")])
    items = await by_name(client, (await ran(client, runtime, job)).id)

    assert {name[:1]: item.error_code for name, item in items.items()} == {
        "a": None,
        "n": "invalid_name",
        "é": "invalid_name",
    }
    assert all(name[:50] in str(item.error) for name, item in items.items() if item.error)


async def test_streams_go_to_storage_without_being_held_and_a_stream_that_is_too_long_fails_alone(
    client: JobClient, runtime: Runtime
) -> None:
    async def numbers(count: int) -> AsyncIterator[bytes]:
        for number in range(count):
            yield b"line %d\n" % number

    client._settings = client._settings.model_copy(update={"max_file_bytes": 10_000})
    files = [FileSource("short.txt", numbers(10)), FileSource("long.txt", numbers(10_000))]

    job = await ran(client, runtime, await client.upload_documents("handbook", files))

    items = await by_name(client, job.id)
    assert (items["short.txt"].status, items["long.txt"].error_code) == (ItemStatus.DONE, "too_large")


async def test_only_allowed_endings_are_taken(client: JobClient, runtime: Runtime) -> None:
    runtime.settings = runtime.settings.model_copy(update={"allowed_file_types": (".md",)})
    files = [FileSource("a.md", b"# one"), FileSource("b.txt", b"two")]

    job = await ran(client, runtime, await client.upload_documents("handbook", files))

    items = await by_name(client, job.id)
    assert (items["a.md"].status, items["b.txt"].error_code) == (ItemStatus.DONE, "type_not_allowed")


async def test_failed_items_are_tried_again_in_a_job_of_their_own(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    pack = packed(good__txt=b"good", bad__txt=b"reject me")
    first = await ran(client, runtime, await client.upload_documents("handbook", [FileSource("pack.zip", pack)]))
    assert (first.status, first.items_failed) == (JobStatus.COMPLETED, 1)
    engine.mended = True

    again = await client.retry_failed_items(first.id)
    job = await ran(client, runtime, again)

    assert again.retry_of == first.id
    assert {name: item.status for name, item in (await by_name(client, job.id)).items()} == {
        "pack.zip/bad.txt": ItemStatus.DONE
    }
    with pytest.raises(NothingToRetryError, match="no failed items"):
        await client.retry_failed_items(again.id)


async def test_failed_questions_are_asked_again_in_a_job_of_their_own(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    await ran(client, runtime, await client.create_workspace("handbook"))
    questions = QuestionSet(
        name="set.csv", questions=(Question(id="q1", text="What?"), Question(id="q2", text="unanswerable here?"))
    )
    engine.unanswered = "unanswerable"
    first = await ran(client, runtime, await client.process_questions("handbook", questions))
    assert (first.status, first.items_failed) == (JobStatus.COMPLETED, 1)
    engine.unanswered = ""

    job = await ran(client, runtime, await client.retry_failed_items(first.id))

    assert [item.key for item in await client.items(job.id)] == ["q2"]
    assert (job.status, job.items_done) == (JobStatus.COMPLETED, 1)


async def test_a_workspace_is_made_given_settings_and_removed_by_jobs(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    settings = WorkspaceSettings(top_n=8, chat_mode="query")
    made = await ran(client, runtime, await client.create_workspace("handbook", settings))
    assert (made.status, (made.result or {})["workspace_slug"]) == (JobStatus.COMPLETED, "slug-handbook")
    assert engine.settings["slug-handbook"] == settings

    await ran(client, runtime, await client.upload_documents("handbook", [FileSource("a.txt", b"one")]))
    gone = await ran(client, runtime, await client.delete_workspace("handbook"))
    assert (gone.result or {})["removed"] is True
    again = await ran(client, runtime, await client.delete_workspace("handbook"))
    assert (again.result or {})["removed"] is False


async def test_an_engine_that_refuses_for_good_fails_the_job_at_once(
    client: JobClient, runtime: Runtime, engine: NotingEngine
) -> None:
    engine.refusal = EngineRefusedError("key_refused", "AnythingLLM refused the API key")

    job = await ran(client, runtime, await client.upload_documents("handbook", [FileSource("a.txt", b"one")]))

    assert (job.status, job.errors[-1]["code"], job.failures) == (JobStatus.FAILED, "key_refused", 1)


async def test_what_lost_attempts_left_is_swept_at_the_end_and_once_more_later(
    client: JobClient, runtime: Runtime, engine: NotingEngine, database: DatabaseManager
) -> None:
    job = await client.upload_documents("handbook", [FileSource("a.txt", b"one"), FileSource("b.txt", b"two")])
    await ran(client, runtime, job)
    assert engine.swept == [job.id]
    await sweep_documents({"runtime": runtime})
    assert engine.swept == [job.id], "a job of one attempt that completed left nothing"

    async with database.get_transaction() as session:
        await session.execute(text("UPDATE jobs SET attempt = 2"))
    await sweep_documents({"runtime": runtime})

    assert engine.swept == [job.id, job.id]
    assert len(engine.documents) == 2


async def test_nothing_to_upload_is_an_error_of_the_caller(client: JobClient) -> None:
    with pytest.raises(NoFilesError):
        await client.upload_documents("handbook")
