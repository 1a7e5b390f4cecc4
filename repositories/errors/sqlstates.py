"""What PostgreSQL's error codes say of the write that met them: may it be sent again, and when?

One table for everything that writes: ends of attempts, claims, items, heartbeats, loops, clients and the command line.
A code that is not in it is judged by its class (the first two characters); a class that is not in it is ``OURS``.
docs/operating.md ("What PostgreSQL may answer") tells what each caller does; a test compares it with this table.

Source: PostgreSQL 18 manual, appendix A, "PostgreSQL Error Codes".
"""

from enum import StrEnum


class Standing(StrEnum):
    """What became of a write, and whether the same write may succeed later."""

    AWAY = "away"
    """The server takes no writes now: it is down, full, starting, or read-only during a failover. Wait for it."""

    BUSY = "busy"
    """Another session was in the way, or time ran out. The same transaction may succeed at once."""

    NEVER = "never"
    """The server cannot store this value, now or later. The one case in which a write is given up."""

    OURS = "ours"
    """Rights, schema or statement are wrong: a person must act, and then the same write succeeds."""


READ_ONLY = "25006"

STANDINGS: dict[str, Standing] = {
    # Connections and the server itself.
    "08": Standing.AWAY,  # connection exception
    "25006": Standing.AWAY,  # read-only transaction: a primary that became a standby, or a full disk's safety switch
    "25P03": Standing.AWAY,  # idle-in-transaction timeout: the session is gone
    "25P04": Standing.AWAY,  # transaction timeout: the session is gone
    "53": Standing.AWAY,  # insufficient resources: disk full, out of memory, too many connections
    "55000": Standing.AWAY,  # object not in prerequisite state: recovery is in progress
    "57": Standing.AWAY,  # operator intervention: shutdown, crash, cannot connect now, idle session timeout
    "58": Standing.AWAY,  # system error: I/O, undefined file
    "F0": Standing.AWAY,  # configuration file error
    "XX": Standing.AWAY,  # internal error, corrupted data or index: seen around crashes and failing disks
    # Other sessions.
    "40": Standing.BUSY,  # transaction rollback: deadlock, serialization failure
    "55006": Standing.BUSY,  # object in use
    "55P03": Standing.BUSY,  # lock_timeout, NOWAIT
    "57014": Standing.BUSY,  # statement_timeout, pg_cancel_backend
    "72": Standing.BUSY,  # snapshot too old
    # Values.
    "22": Standing.NEVER,  # data exception: untranslatable character, out of range, invalid text or JSON
    "23": Standing.NEVER,  # integrity constraint violation
    "54": Standing.NEVER,  # program limit exceeded: too deeply nested, too large for its type
}


def standing(sqlstate: str) -> Standing:
    """Return the standing of a write that met this code.

    Args:
        sqlstate: five characters; empty or unknown ones are ``OURS``.
    """
    return STANDINGS.get(sqlstate) or STANDINGS.get(sqlstate[:2]) or Standing.OURS
