"""What the exit status of every command means: one table for all of them."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit status. Scripts may rely on it."""

    OK = 0
    FAILED = 1  # the job failed, or some request was refused
    USAGE = 2  # wrong usage, a malformed setting or a bad input file: nothing was done
    PARTLY = 3  # the job completed, but some of its items failed
    UNAVAILABLE = 4  # PostgreSQL, Redis or the storage does not answer
    INTERRUPTED = 130  # Ctrl-C


MEANINGS = {
    Exit.OK: "everything was done",
    Exit.FAILED: "the job failed, or some request was refused (named on stderr)",
    Exit.USAGE: "wrong usage, a malformed setting or a bad input file: nothing was done",
    Exit.PARTLY: "the job completed, but some of its items failed",
    Exit.UNAVAILABLE: "PostgreSQL, Redis or the storage does not answer",
    Exit.INTERRUPTED: "interrupted by Ctrl-C; jobs go on",
}

EPILOG = "Exit status: " + "; ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items()) + "."
