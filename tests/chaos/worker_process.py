"""``python -m tests.chaos.worker_process``: the product's ``worker run``, with the chaos suite's engine in it.

Only the class of the engine differs, put in its place before the command begins; the product knows of no such choice.
"""

import sys

import worker.main
from tests.chaos.harness.engine import ChaosEngine
from worker.cli import main as command

if __name__ == "__main__":
    if not hasattr(worker.main, "LocalEngine"):
        raise SystemExit("worker.main makes its engine otherwise now: tell tests/chaos/worker_process.py how")
    worker.main.LocalEngine = ChaosEngine
    sys.argv = ["worker", "run", "--processes", "1"]
    command()
