"""Sections "Configuration", "Error Handling" and "Testing" of the page."""

from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from repositories import JobRepository, JobType
from repositories.base import ConflictError, NotFoundError, RepositoryError
from worker.settings import Settings

ENV = """\
DATABASE_URL=postgresql+asyncpg://user:password@localhost/anythingllm
DATABASE_POOL_SIZE=10
DATABASE_MAX_OVERFLOW=20
REDIS_ENABLED=true
REDIS_URL=redis://localhost:6379/0
REDIS_POOL_SIZE=10
"""


def test_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(ENV)
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")

    settings = Settings()

    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql+asyncpg://user:password@localhost/anythingllm"
    assert (settings.database_pool_size, settings.database_max_overflow) == (10, 20)
    assert settings.redis_url is not None
    assert (settings.redis_enabled, settings.redis_pool_size) == (True, 10)


async def test_error_handling(job_repo: JobRepository) -> None:
    caught: list[str] = []
    try:
        await job_repo.get_by_id_or_raise("invalid_id")
    except NotFoundError:
        # Handle not found
        caught.append("not found")
    except ConflictError:
        # Handle constraint violations
        caught.append("conflict")
    except RepositoryError:
        # Handle general repository errors
        caught.append("other")

    assert caught == ["not found"]


@pytest.fixture
def mock_session() -> AsyncMock:
    session = AsyncMock()
    # Configure mock behavior
    return session


@pytest.fixture
def job_repository(mock_session: AsyncMock) -> JobRepository:
    return JobRepository(mock_session)


# session.add is not awaited, because a session's is no coroutine; on a plain AsyncMock Python says so.
@pytest.mark.filterwarnings("ignore:coroutine 'AsyncMockMixin._execute_mock_call' was never awaited:RuntimeWarning")
@pytest.mark.asyncio
async def test_create_job(job_repository: JobRepository) -> None:
    # Test job creation
    job = await job_repository.create_job(JobType.DOCUMENT_UPLOAD)
    assert job.type == JobType.DOCUMENT_UPLOAD
