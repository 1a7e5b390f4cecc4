"""Code that was written against the older service's repositories runs on ours: each name, parameter and default.

The tables are that service's public names, as facts. What ours takes beyond them must be optional.
"""

import ast
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import uuid4

import pytest
from pydantic import BaseModel, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

import repositories
from repositories import base, database, dependencies, examples, models, schemas
from repositories.base import BaseRepository
from repositories.cache import CacheBackend, CacheRepository, MemoryBackend, RedisBackend
from repositories.database import DatabaseManager
from repositories.examples import RepositoryService
from repositories.jobs import JobRepository
from repositories.states import FINAL, TRANSITIONS, JobStatus, JobType

BACKEND = """
    get(key)
    set(key, value, ttl=None)
    delete(key)
    exists(key)
    get_many(keys)
    set_many(mapping, ttl=None)
    delete_many(keys)
    clear()
    get_keys(pattern="*")
    invalidate_pattern(pattern)
    increment(key, amount=1)
    expire(key, ttl)
    health_check()
"""

SIGNATURES: dict[type, str] = {
    BaseRepository: """
        sync __init__(model, session)
        create(obj_in, **kwargs)
        get_by_id(id, load_relationships=False)
        get_by_id_or_raise(id, load_relationships=False)
        update(id, obj_in, **kwargs)
        delete(id)
        list_with_pagination(pagination, filters=None, order_by=None, load_relationships=False)
        count(filters=None)
        exists(id)
        bulk_create(objects, **kwargs)
        bulk_update(updates, id_field="id")
        bulk_delete(ids)
    """,
    JobRepository: """
        sync __init__(session)
        create_job(job_type, workspace_id=None, metadata=None)
        update_job_status(job_id, status, progress=None, result=None, error=None, metadata=None)
        get_job_with_results(job_id)
        list_jobs_with_filters(filters, pagination, load_relationships=False)
        get_jobs_by_workspace(workspace_id, status=None, limit=None)
        get_active_jobs(job_type=None)
        cleanup_old_jobs(older_than_days)
        get_job_statistics(workspace_id=None, days=30)
        cancel_job(job_id, reason=None)
        get_job_queue_position(job_id)
    """,
    CacheRepository: f"""
        sync __init__(redis_client=None)
        {BACKEND}
        sync get_backend_type()
        cache_with_ttl(key, value_factory, ttl=3600, *args, **kwargs)
        get_cache_stats()
    """,
    CacheBackend: BACKEND,
    RedisBackend: f"sync __init__(redis_client)\n{BACKEND}",
    MemoryBackend: f"sync __init__()\n{BACKEND}",
    DatabaseManager: """
        context get_session()
        context get_transaction()
    """,
    RepositoryService: """
        sync __init__(job_repo, cache_repo)
        create_and_cache_job(job_type, workspace_id=None, metadata=None)
        get_job_with_cache(job_id)
        update_job_with_cache_invalidation(job_id, status)
        get_workspace_job_stats(workspace_id)
        cleanup_old_data(days=7)
        get_system_health()
    """,
}

FUNCTIONS: dict[Any, str] = {
    database: """
        init_db(settings)
        close_db()
        generator get_db_session()
        generator get_db_transaction()
        sync get_redis()
    """,
    dependencies: """
        get_job_repository(session)
        get_cache_repository(redis_client)
    """,
}

EXPORTS = [
    "BaseRepository",
    "RepositoryError",
    "NotFoundError",
    "ConflictError",
    "JobRepository",
    "CacheRepository",
    "get_job_repository",
    "get_cache_repository",
]


KINDS: dict[str, Any] = {
    "async": inspect.iscoroutinefunction,
    "sync": lambda function: not inspect.iscoroutinefunction(function),
    "generator": inspect.isasyncgenfunction,
    "context": lambda function: inspect.isasyncgenfunction(inspect.unwrap(function)),
}
_REQUIRED = inspect.Parameter.empty


def _listed() -> Iterator[Any]:
    for owner, lines in [*SIGNATURES.items(), *FUNCTIONS.items()]:
        for line in filter(None, map(str.strip, lines.split("\n"))):
            head, _, parameters = line.partition("(")
            *kind, name = head.split()
            yield pytest.param(
                owner, *(kind or ["async"]), name, parameters.removesuffix(")"), id=f"{owner.__name__}.{name}"
            )


def _parameters(text: str) -> dict[str, Any]:
    """Names and defaults of a parameter list; the stars stay on the names."""
    (function,) = ast.parse(f"def listed({text}): ...").body
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    names = [argument.arg for argument in arguments.args]
    defaults = [_REQUIRED] * (len(names) - len(arguments.defaults)) + [
        ast.literal_eval(default) for default in arguments.defaults
    ]
    found = dict(zip(names, defaults, strict=True))
    found |= {f"*{arguments.vararg.arg}": _REQUIRED} if arguments.vararg else {}
    return found | ({f"**{arguments.kwarg.arg}": _REQUIRED} if arguments.kwarg else {})


@pytest.mark.parametrize(("owner", "kind", "name", "parameters"), list(_listed()))
def test_a_listed_call_is_there_with_its_parameters_and_defaults(
    owner: Any, kind: str, name: str, parameters: str
) -> None:
    function = getattr(owner, name)
    assert KINDS[kind](function), f"{name} is not {kind}"
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    ours = {
        stars.get(parameter.kind, "") + parameter.name: parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    }
    listed = _parameters(parameters)

    positional = [known for known, parameter in ours.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    wanted = [known for known in listed if not known.startswith("*")]
    assert positional[: len(wanted)] == wanted  # by name and by place
    for known, default in listed.items():
        assert known in ours
        assert default in (_REQUIRED, ours[known].default), f"{known}={ours[known].default!r}"
    for known in ours.keys() - listed.keys():
        assert known.startswith("*") or ours[known].default is not _REQUIRED, f"{known} is one too many"


def test_the_two_dependencies_take_what_the_older_ones_took() -> None:
    for function, parameter, wanted in (
        (dependencies.get_job_repository, "session", database.get_db_session),
        (dependencies.get_cache_repository, "redis_client", database.get_redis),
    ):
        annotation = inspect.signature(function).parameters[parameter].annotation
        assert [given.dependency for given in get_args(annotation)[1:]] == [wanted]


@pytest.mark.parametrize("name", EXPORTS)
def test_a_listed_name_is_imported_from_the_package(name: str) -> None:
    assert name in repositories.__all__
    assert getattr(repositories, name).__name__ == name


@pytest.mark.parametrize("name", ["RepositoryError", "NotFoundError", "ConflictError"])
def test_the_errors_are_imported_from_base_too_and_derive_from_one(name: str) -> None:
    assert issubclass(getattr(base, name), base.RepositoryError)
    assert getattr(base, name) is getattr(repositories, name)


def test_a_repository_for_ones_own_model_is_a_subclass_with_three_types() -> None:
    class Mine(BaseRepository[models.Workspace, schemas.JobCreate, schemas.JobUpdate]):
        def __init__(self, session: AsyncSession) -> None:
            super().__init__(models.Workspace, session)

    assert Mine(AsyncSession()).model is models.Workspace


def test_the_examples_are_one_module_with_the_service_and_the_app() -> None:
    assert examples.RepositoryService is RepositoryService
    assert "settings" in inspect.signature(examples.create_app).parameters


# Schemas, enums and the row

FIELDS: dict[type[BaseModel], dict[str, Any]] = {
    schemas.JobCreate: {"type": _REQUIRED, "workspace_id": None, "metadata": {}},
    schemas.JobUpdate: dict.fromkeys(("status", "progress", "result", "error", "metadata")),
    schemas.JobFilters: dict.fromkeys(("status", "type", "workspace_id", "created_after", "created_before")),
    schemas.PaginationParams: {"page": 1, "size": 20},
    schemas.PaginatedJobs: dict.fromkeys(("items", "total", "page", "size"), _REQUIRED),
    schemas.Job: dict.fromkeys(("id", "type", "status", "created_at", "updated_at"), _REQUIRED)
    | dict.fromkeys(("workspace_id", "started_at", "completed_at", "result", "error"))
    | {"progress": 0.0, "metadata": {}},
    schemas.JobResponse: {"job": _REQUIRED, "links": {}, "estimated_completion": None},
    schemas.JobStatistics: dict.fromkeys(
        (
            "period_days",
            "workspace_id",
            "total_jobs",
            "status_counts",
            "type_counts",
            "average_processing_time_seconds",
            "success_rate",
        ),
        _REQUIRED,
    ),
}


@pytest.mark.parametrize(
    ("model", "field", "default"),
    [
        pytest.param(model, field, default, id=f"{model.__name__}.{field}")
        for model, fields in FIELDS.items()
        for field, default in fields.items()
    ],
)
def test_a_listed_field_is_there_with_its_default(model: type[BaseModel], field: str, default: Any) -> None:
    ours = model.model_fields[field]
    assert ours.is_required() is (default is _REQUIRED)
    if default is not _REQUIRED:
        assert ours.get_default(call_default_factory=True) == default


@pytest.mark.parametrize("status", ["pending", "processing", "completed", "failed", "cancelled"])
def test_a_listed_state_is_known(status: str) -> None:
    assert JobStatus(status) == status
    assert JobStatus[status.upper()] is JobStatus(status)


def test_no_attempt_and_no_caller_leads_out_of_a_final_state() -> None:
    ways_out = {str(row.verb) for row in TRANSITIONS if row.source in FINAL}
    assert ways_out == {"retry"}  # a person asks for the job again


@pytest.mark.parametrize(
    "job_type", ["document_upload", "question_processing", "workspace_creation", "workspace_deletion"]
)
def test_a_listed_job_type_is_known(job_type: str) -> None:
    assert JobType[job_type.upper()] == job_type


COLUMNS = [
    "id",
    "type",
    "status",
    "workspace_id",
    "started_at",
    "completed_at",
    "progress",
    "result",
    "error",
    "job_metadata",
    "created_at",
    "updated_at",
]


@pytest.fixture
def row() -> models.Job:
    now = datetime.now(UTC)
    return models.Job(
        id=uuid4(),
        type="document_upload",
        status=JobStatus.FAILED,
        workspace_id="workspace_123",
        progress=50.0,
        result={"ok": False},
        errors=[{"message": "first"}, {"message": "last"}],
        job_metadata={"project": "test"},
        created_at=now,
        updated_at=now,
        started_at=now,
        completed_at=now + timedelta(seconds=3),
    )


@pytest.mark.parametrize("name", COLUMNS)
def test_a_listed_column_is_read_from_the_row_its_dict_and_the_read_model(row: models.Job, name: str) -> None:
    public = name.removeprefix("job_")
    value = getattr(row, name)

    assert value is not None
    assert row.dict()[public] == value
    assert getattr(schemas.Job.model_validate(row), public) == value


def test_the_read_model_knows_the_end_and_the_duration_as_the_row_does(row: models.Job) -> None:
    for job in (row, schemas.Job.model_validate(row)):
        assert (job.is_completed, job.duration_seconds) == (True, 3.0)
    row.status, row.completed_at = JobStatus.PROCESSING, None
    for job in (row, schemas.Job.model_validate(row)):
        assert (job.is_completed, job.duration_seconds) == (False, None)


def test_the_read_model_goes_through_json_and_back(row: models.Job) -> None:
    job = schemas.Job.model_validate(row)

    assert schemas.Job.model_validate_json(job.model_dump_json()) == job
    assert job.model_dump()["metadata"] == {"project": "test"}


def test_a_response_holds_the_job_its_links_and_when_it_will_end(row: models.Job) -> None:
    later = datetime.now(UTC) + timedelta(minutes=1)

    response = schemas.JobResponse(
        job=schemas.Job.model_validate(row), links={"self": "/jobs/1"}, estimated_completion=later
    )

    assert response.model_dump(mode="json")["job"]["error"] == "last"
    assert (response.links, response.estimated_completion) == ({"self": "/jobs/1"}, later)


def test_a_page_knows_its_offset_and_how_many_there_are(row: models.Job) -> None:
    items = [schemas.Job.model_validate(row)]

    assert schemas.PaginationParams(page=3, size=20).offset == 40
    # The older model was given ``pages``; whoever still does so is answered with the right number.
    page = schemas.PaginatedJobs.model_validate({"items": items, "total": 41, "page": 3, "size": 20, "pages": 7})
    assert page.pages == page.model_dump()["pages"] == 3
    assert schemas.PaginatedJobs(items=[], total=0, page=1, size=20).pages == 0


@pytest.mark.parametrize("page", [{"page": 0}, {"size": 0}, {"size": 101}])
def test_pages_are_within_the_listed_bounds(page: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        schemas.PaginationParams(**page)
    assert schemas.PaginationParams(size=100).size == 100
