"""The state machine as data."""

from pathlib import Path

from repositories.states import FINAL, TRANSITIONS, JobStatus, Verb, mermaid, sources

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_diagram_in_the_docs_is_the_one_drawn_from_the_table() -> None:
    assert f"```mermaid\n{mermaid()}\n```" in ARCHITECTURE.read_text(encoding="utf-8")


def test_a_completed_job_has_no_way_out() -> None:
    assert not [row for row in TRANSITIONS if row.source is JobStatus.COMPLETED]


def test_only_a_person_brings_a_final_job_back() -> None:
    assert {row.verb for row in TRANSITIONS if row.source in FINAL} == {Verb.RETRY}


def test_every_verb_of_a_running_attempt_is_fenced() -> None:
    assert {row.verb for row in TRANSITIONS if row.fenced} == {Verb.FINISH, Verb.PUT_BACK}


def test_sources_are_spelled_as_the_database_spells_them() -> None:
    assert sources(Verb.CANCEL, JobStatus.CANCELLED) == ["pending", "queued", "processing"]
