"""What a journal keeps of what was done, and what it does when that is too much."""

import pytest

from repositories.cache.journal import Base, Change, Journal


class Clock:
    """Seconds that move when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def put(value: bytes, ends_at: float | None = None) -> Change:
    return Change(Base.PUT, value, ends_at)


def put_if_absent(value: bytes, ends_at: float | None = None) -> Change:
    return Change(Base.PUT_IF_ABSENT, value, ends_at)


def add(amount: int) -> Change:
    return Change(Base.KEEP, amount=amount)


def renew(ends_at: float) -> Change:
    return Change(Base.KEEP, renewed_to=ends_at)


DROP = Change(Base.DROP)


@pytest.mark.parametrize(
    ("changes", "sum_of_them"),
    [
        ([put(b"1"), put(b"2")], put(b"2")),
        ([put(b"1"), DROP], DROP),
        ([DROP, put(b"2", 9)], put(b"2", 9)),
        ([put(b"1", 9), add(4)], put(b"5", 9)),
        ([DROP, add(4)], put(b"4")),
        ([add(4), add(-6)], add(-2)),
        ([add(4), add(-4)], add(0)),
        ([DROP, add(0)], put(b"0")),
        ([add(4), renew(9), add(1)], Change(Base.KEEP, amount=5, renewed_to=9)),
        ([add(4), DROP, add(1)], put(b"1")),
        ([put(b"1", 5), renew(9)], put(b"1", 9)),
        ([DROP, renew(9)], DROP),
        ([put_if_absent(b"1"), add(4)], Change(Base.PUT_IF_ABSENT, b"1", amount=4)),
        ([put_if_absent(b"1"), renew(9)], Change(Base.PUT_IF_ABSENT, b"1", renewed_to=9)),
        ([put_if_absent(b"1"), DROP, put_if_absent(b"2")], put(b"2")),
        ([put_if_absent(b"1"), put_if_absent(b"2")], put_if_absent(b"2")),
        ([add(2**63 - 1), add(5)], add(2**63 - 1)),
    ],
)
def test_of_each_key_only_the_sum_is_kept(clock: Clock, changes: list[Change], sum_of_them: Change) -> None:
    journal = Journal(clock=clock)
    for change in changes:
        journal.note(["key"], change)

    assert journal.changes == {"key": sum_of_them}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (put(b"1", 10), DROP),
        (renew(10), DROP),
        (Change(Base.KEEP, amount=3, renewed_to=10), DROP),
        (put_if_absent(b"1", 10), None),
        (Change(Base.PUT_IF_ABSENT, b"1", 10, amount=3), add(3)),
        (Change(Base.PUT_IF_ABSENT, b"1", renewed_to=10), DROP),
        (put(b"1", 10.5), put(b"1", 10.5)),
        (add(1), add(1)),
    ],
)
def test_a_lifetime_that_ended_meanwhile_leaves_what_is_true_whatever_redis_holds(
    change: Change, left: Change | None
) -> None:
    assert change.at(10) == left


def test_counting_on_a_value_whose_lifetime_ended_starts_from_nothing(clock: Clock) -> None:
    journal = Journal(clock=clock)
    journal.note(["n"], put(b"40", 10))
    clock.now = 10

    journal.note(["n"], add(2))

    assert journal.changes == {"n": put(b"2")}


def test_a_pattern_settles_what_it_matches_then_and_later(clock: Clock) -> None:
    journal = Journal(clock=clock)
    journal.note(["a:1", "a:2", "b"], put(b"1"))
    journal.note_pattern("a:*")
    journal.note(["a:2", "a:3"], add(7))

    assert list(journal.patterns) == ["a:*"]
    assert journal.changes == {"b": put(b"1"), "a:2": put(b"7"), "a:3": put(b"7")}


def test_clearing_everything_makes_all_before_it_needless(clock: Clock) -> None:
    journal = Journal(clock=clock)
    journal.note_pattern("a:*")
    journal.note(["a", "b"], put(b"1"))

    journal.note_pattern("*")
    journal.note(["c"], DROP)

    assert list(journal.patterns) == ["*"]
    assert journal.changes == {"c": DROP}


@pytest.mark.parametrize(
    "bounds", [{"max_changes": 3}, {"max_bytes": 30}, {"max_patterns": 2}], ids=lambda bounds: next(iter(bounds))
)
def test_a_journal_that_outgrows_its_bounds_asks_for_the_namespace_to_be_cleared(
    clock: Clock, bounds: dict[str, int]
) -> None:
    journal = Journal(**bounds, clock=clock)
    for number in range(10):
        journal.note([f"{number}"], put(b"12345678"))
        journal.note_pattern(f"never{number}*")

    assert journal.overflowed
    assert list(journal.patterns) == ["*"]
    assert (journal.changes, journal.used_bytes) == ({}, 0)

    assert journal.take().overflowed
    journal.note(["after"], DROP)
    assert journal.changes == {"after": DROP}  # what comes while the namespace is cleared counts again


def test_bytes_are_counted_once_however_often_a_key_changes(clock: Clock) -> None:
    journal = Journal(max_bytes=1000, clock=clock)
    for _ in range(100):
        journal.note(["é"], put(b"x" * 100))
    assert journal.used_bytes == 102

    journal.note_pattern("*")
    assert journal.used_bytes == 0


def test_what_was_taken_and_put_back_comes_before_what_was_noted_since(clock: Clock) -> None:
    journal = Journal(clock=clock)
    journal.note(["n", "a:1", "kept"], put(b"1"))
    taken = journal.take()
    assert not journal
    journal.note(["n"], add(1))
    journal.note_pattern("a:*")
    journal.note(["a:1"], add(5))

    journal.put_back(taken)

    assert list(journal.patterns) == ["a:*"]
    assert journal.changes == {"n": put(b"2"), "kept": put(b"1"), "a:1": put(b"5")}
