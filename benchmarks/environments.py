"""An environment for each peer, made with uv in ``benchmarks/.envs``: their Redis clients exclude one another."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.systems import System

ROOT = Path(__file__).parent / ".envs"
_SECONDS = 300


class EnvironmentFailedError(Exception):
    """A peer's environment could not be made; the message ends with what uv said."""


def python_of(system: System) -> Path:
    """Return the interpreter of the system's environment, which is made first if it is missing.

    A changed pin is another environment. An environment is complete or absent.

    Raises:
        EnvironmentFailedError: uv could not make it.
    """
    if not system.packages:
        return Path(sys.executable)
    pins = hashlib.sha256(" ".join((sys.version, *system.packages)).encode()).hexdigest()[:8]
    place = ROOT / f"{system.name}-{pins}"
    complete = place / ".complete"
    if not complete.exists():
        shutil.rmtree(place, ignore_errors=True)
        _uv("venv", "--quiet", "--python", sys.executable, str(place))
        _uv("pip", "install", "--quiet", "--compile-bytecode", "--python", str(place / "bin/python"), *system.packages)
        complete.touch()
    return place / "bin/python"


def _uv(*arguments: str) -> None:
    command = [sys.executable, "-m", "uv", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603 - pinned names
    if done.returncode:
        raise EnvironmentFailedError(f"uv {' '.join(arguments[:2])} failed: {done.stderr.strip()[-500:]}")
