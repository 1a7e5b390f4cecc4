"""``python -m repositories.examples``: run the patterns, and print what each did."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from pydantic import ValidationError
from rich.console import Console

from repositories.embedded import embedded_servers
from repositories.errors import RepositoryError

try:
    from repositories.examples import caching, records
    from repositories.examples.app import ExampleSettings
    from repositories.examples.servers import Facts, Opened, opened
except ModuleNotFoundError as missing:
    if missing.name not in {"fastapi", "httpx"}:
        raise
    raise SystemExit(
        f"examples: {missing.name} is not installed: pip install 'anythingllm-worker[embedded,web]' httpx"
    ) from None

Pattern = Callable[[Opened], Awaitable[Facts]]

PATTERNS: dict[str, Pattern] = {
    pattern.__name__: pattern
    for pattern in (
        records.dependency_injection,
        records.own_repository,
        records.transactions,
        records.error_handling,
        records.bulk_operations,
        records.pagination,
        records.idempotency_key,
        records.parents,
        caching.service_layer,
        caching.cache_aside,
        caching.write_through,
        caching.cache_invalidation,
        caching.health_monitoring,
        caching.cleanup,
    )
}

_EPILOG = (
    "Without DATABASE_URL and REDIS_URL, both servers are started in a temporary folder and removed with it. With "
    "them, the patterns get a new database on that server, dropped at the end, and a cache namespace of their own: "
    "nothing that is there is touched.\n\n"
    "Try: `python -m repositories.examples transactions pagination`, then read `repositories/examples/records.py`.\n\n"
    "Exit status: 0 every pattern ran; 1 one failed, or a server does not answer; 2 wrong usage."
)

# Without markup: what is printed comes from a database, and [brackets] or :colons: in it are only text.
out = Console(soft_wrap=True, markup=False, highlight=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, markup=False, highlight=False, emoji=False)


def main(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(help=f"Which to run; without one, all: {', '.join(PATTERNS)}.", metavar="PATTERN"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a pattern and line, for scripts.")] = False,  # noqa: FBT002 - a flag is a keyword on the command line
) -> None:
    """Run every way to use the repositories on a real PostgreSQL and a real Redis, and print what each did."""
    if unknown := sorted(set(patterns or ()) - PATTERNS.keys()):
        raise typer.BadParameter(f"there is no {unknown[0]!r}; there are {', '.join(PATTERNS)}", param_hint="PATTERN")
    # Lines of the log beside the output, not in it.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    chosen = {name: PATTERNS[name] for name in patterns or PATTERNS}
    try:
        failed = _run(chosen, as_json=as_json)
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        _fail(f"{'.'.join(map(str, problem['loc'])).upper()} {problem['msg'].removeprefix('Value error, ')}")
    except RepositoryError as error:
        _fail(str(error))
    else:
        raise typer.Exit(1 if failed else 0)


def _run(chosen: dict[str, Pattern], *, as_json: bool) -> int:
    given = ExampleSettings()
    database_url, redis_url = (
        None if url is None else url.get_secret_value() for url in (given.database_url, given.redis_url)
    )
    with tempfile.TemporaryDirectory(prefix="repositories-examples-") as folder:
        if not (database_url and redis_url) and not as_json:
            out.print("starting a server in a temporary folder ...", style="dim")
        with embedded_servers(Path(folder), database_url=database_url, redis_url=redis_url, durable=False) as servers:
            found = {"database_url": servers.database_url, "redis_url": servers.redis_url}
            if database_url is None:
                found["database_direct_url"] = servers.database_url
            settings = ExampleSettings.model_validate(given.model_dump() | found)
            return asyncio.run(_run_on(settings, chosen, as_json=as_json))


async def _run_on(settings: ExampleSettings, chosen: dict[str, Pattern], *, as_json: bool) -> int:
    """Run the patterns one after the other; one that fails does not stop the others."""
    failed = 0
    async with opened(settings) as servers:
        for number, (name, pattern) in enumerate(chosen.items(), 1):
            begun = time.perf_counter()
            told: dict[str, Any] = {"pattern": name, "about": (pattern.__doc__ or "").strip()}
            try:
                told["did"] = await pattern(servers)
            except RepositoryError as error:
                told["error"] = f"{type(error).__name__}: {error}"
                failed += 1
            told["seconds"] = round(time.perf_counter() - begun, 3)
            _tell(number, told, as_json=as_json)
    return failed


def _tell(number: int, told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        out.out(json.dumps(told), highlight=False)
        return
    out.print(f"\n{number:>2}  {told['pattern']}", style="bold", end="")
    out.print(f"  {told['about']}", style="dim")
    width = max((len(fact) for fact in told.get("did", {})), default=0)
    for fact, value in told.get("did", {}).items():
        shown = value if isinstance(value, str) else json.dumps(value)
        out.print(f"    {fact:<{width}}  {shown}")
    if "error" in told:
        err.print(f"    {told['error']}", style="red")


def _fail(message: str) -> None:
    err.print(f"examples: {message}", style="red")
    raise typer.Exit(1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command(epilog=_EPILOG)(main)
    app(prog_name="python -m repositories.examples")
