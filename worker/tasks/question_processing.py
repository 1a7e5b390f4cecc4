"""``question_processing``: ask a question set against a workspace, and score the answers.

The first attempt writes the questions as items; every attempt asks those that have no recorded answer yet. A refusal is
an answer: whether it is the right one is the score's business.
"""

import time
from collections.abc import Sequence
from typing import Any

from repositories.items import ItemRepository
from repositories.models import JobItem
from repositories.schemas import ItemOutcome, JobError, NewItem
from repositories.states import ItemStatus
from repositories.workspaces import WorkspaceNotFoundError, WorkspaceRepository
from worker.engines.base import EngineError, EngineRefusedError, EngineUnavailableError, WorkspaceUnknownError
from worker.errors import JobFailedError
from worker.payloads import QuestionProcessingPayload
from worker.questions.question_set import Question
from worker.questions.scoring import score
from worker.rebuilds import check_stayed, stay_out
from worker.run import Run


async def question_processing(run: Run) -> dict[str, Any]:
    """Carry out one attempt; the result holds how many questions were answered, refused and passed."""
    payload = run.payload(QuestionProcessingPayload)
    rebuilt_at = await stay_out(run, payload.workspace)
    slug = await _slug(run, payload.workspace)

    async def expand() -> Sequence[NewItem]:
        return [
            NewItem(position=at, key=question.id, spec=question.model_dump(mode="json"))
            for at, question in enumerate(payload.questions)
        ]

    async def ask(item: JobItem) -> ItemOutcome:
        try:
            outcome = await _ask(run, slug, item)
        except JobFailedError:  # the workspace is not there: it may be between the old and the new one
            await check_stayed(run, payload.workspace, rebuilt_at)
            raise
        await check_stayed(run, payload.workspace, rebuilt_at)  # or it may have held a part of its documents
        return outcome

    await run.each(await run.items(expand), ask, slug)
    return await _result(run, slug)


async def _slug(run: Run, name: str) -> str:
    """The workspace's slug.

    Raises:
        JobFailedError: there is no such workspace; the message offers names that look like it.
    """
    try:
        async with run.runtime.database.get_session() as session:
            return (await WorkspaceRepository(session, run.runtime.engine.name).get_or_raise(name)).slug
    except WorkspaceNotFoundError as error:
        raise JobFailedError("workspace_unknown", str(error)) from error


async def _ask(run: Run, slug: str, item: JobItem) -> ItemOutcome:
    question = Question.model_validate(item.spec)
    started = time.monotonic()
    try:
        answer = await run.runtime.engine.ask(slug, question.text)
    except WorkspaceUnknownError as error:
        raise JobFailedError(error.code, error.message) from error
    except (EngineUnavailableError, EngineRefusedError):
        raise
    except EngineError as error:  # this question has no answer; the others may
        return ItemOutcome(
            position=item.position,
            status=ItemStatus.FAILED,
            error=JobError(code=error.code, message=error.message),
            timings={"ask": round(time.monotonic() - started, 4)},
        )
    seconds = round(time.monotonic() - started, 4)
    verdict = score(question, answer)
    return ItemOutcome(
        position=item.position,
        status=ItemStatus.DONE,
        result={"answer": answer.model_dump(mode="json"), "score": verdict.model_dump(mode="json")},
        timings={"ask": seconds},
    )


async def _result(run: Run, slug: str) -> dict[str, Any]:
    async with run.runtime.database.get_session() as session:
        items = await ItemRepository(session).list(run.job.id)
    results = [item.result for item in items if item.status is ItemStatus.DONE and item.result is not None]
    failed = sum(item.status is ItemStatus.FAILED for item in items)
    run.fail_if_all_failed(failed, len(items))
    refused = sum(bool(result["answer"]["refused"]) for result in results)
    return {
        "workspace_slug": slug,
        "engine": run.runtime.engine.name,
        "questions": len(items),
        "answered": len(results) - refused,
        "refused": refused,
        "items_failed": failed,
        "passed": sum(bool(result["score"]["passed"]) for result in results),
    }
