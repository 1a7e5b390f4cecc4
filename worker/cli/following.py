"""Following a folder: what changes is uploaded a moment after it came to rest.

The folder is watched before its files are uploaded for the first time, so what changes meanwhile is not missed. A
server that is away does not end it: what changed is kept, and uploaded when the server answers.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from watchfiles import awatch

from worker.cli.context import UNAVAILABLE, note
from worker.files import NoFilesError

_REST_MS = 1_000  # a file that is being written changes many times
_LOOK_MS = 250  # also how long it takes until the first upload begins
_AGAIN_SECONDS = 5.0  # after a server was away


async def follow_folder(paths: Sequence[Path], upload: Callable[[set[Path] | None], Awaitable[None]]) -> None:
    """Upload everything once, then whatever changes, until the command is interrupted.

    Args:
        paths: files and folders.
        upload: gets the paths that changed, absolute; ``None`` the first time, for all.

    Raises:
        NoFilesError: no path was named, or one does not exist.
    """
    told = False
    changed: set[Path] | None = None
    not_before = 0.0
    # It yields on a timeout as well, which is what lets a round be tried again although nothing changed.
    async for changes in awatch(
        *_absolute(paths), debounce=_REST_MS, step=200, rust_timeout=_LOOK_MS, yield_on_timeout=True
    ):
        if changed is not None:
            changed |= {Path(path) for _, path in changes}
            if not changed:
                continue
        if time.monotonic() < not_before:
            continue
        try:
            await upload(changed)
        except NoFilesError as error:  # there is none (left): one may come
            note(f"worker upload: {error}", "yellow")
        except UNAVAILABLE as error:
            note(f"worker upload: {error}; trying again in {_AGAIN_SECONDS:.0f} s", "yellow")
            not_before = time.monotonic() + _AGAIN_SECONDS
            continue
        changed = set()
        if not told:
            told = True
            note(f"following {', '.join(map(str, paths))}; Ctrl-C ends it")


def _absolute(paths: Sequence[Path]) -> list[Path]:
    if not paths:
        raise NoFilesError("--watch needs a folder or a file to follow")
    for path in paths:
        if not path.exists():
            raise NoFilesError(f"{path} does not exist: check the spelling (the working folder is {Path.cwd()})")
    return [path.absolute() for path in paths]
