"""The ``worker`` command. Commands parse, delegate and print; what they do lives elsewhere.

Text is for people, ``--json`` for scripts (one object a line), refusals and errors go to stderr, and the exit status
has one meaning for all commands (:mod:`worker.cli.exits`).
"""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from worker.cli import ask, database, demo, jobs, queues, run, show_settings, upload, workers, workspaces
from worker.cli.careful import CarefulGroup, show_traceback
from worker.cli.context import out, reported
from worker.cli.exits import EPILOG

app = typer.Typer(
    name="worker",
    cls=CarefulGroup,
    help="Background jobs for AnythingLLM: upload documents, ask question sets, follow and repair jobs.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def tell_version(asked: bool) -> None:  # noqa: FBT001 - the value of --version
    """Print the version and end, if it was asked for."""
    if asked:
        out.print(f"worker {version('anythingllm-worker')}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=tell_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before the command."""


app.command("demo")(demo.demo)
app.command("dev")(run.dev)
app.command("run")(run.run_workers)
app.command("upload")(upload.upload)
app.command("ask")(ask.ask)
app.add_typer(jobs.app, name="jobs")
app.add_typer(queues.app, name="queues")
app.command("workers")(workers.workers)
app.add_typer(workspaces.app, name="workspaces")
app.add_typer(database.app, name="db")
app.command("settings")(show_settings.show_settings)


def main() -> None:
    """Run the command line."""
    try:
        with reported(debug="--debug" in sys.argv[1:]):
            app()
    except Exception:
        sys.excepthook = show_traceback  # typer put one of its own there
        raise
