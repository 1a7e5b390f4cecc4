"""What needs no extra works without it: nothing imports a parser or numpy on the way."""

import subprocess
import sys

import pytest

BLOCKED = """
import sys
for name in ("kreuzberg", "markdown_it", "numpy", "wordllama"):
    sys.modules[name] = None
import {module}
"""


@pytest.mark.parametrize("module", ["worker.main", "worker.client", "worker.cli"])
def test_a_worker_and_a_client_need_no_parsers(module: str) -> None:
    command = [sys.executable, "-c", BLOCKED.format(module=module)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
