"""Question sets: what a question is, and how a set of them is read from a CSV file.

Promise: a file is taken whole or refused whole, and a refusal names every problem (up to ``MAX_PROBLEMS``) with its
line, so that a person mends the file once. What was read otherwise than it stands there (empty lines, repeated
questions, unknown columns) is told in ``warnings``. Bytes, lines and lengths are bounded.

The header names the columns, in any order and case: ``question`` and ``expected_fragments`` are needed, ``id`` and
``answerable`` are optional. Fragments are separated by ``;``, ``|`` or a line break inside the cell.
"""

import re
from difflib import get_close_matches
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from worker.questions.csv_table import Row, decode, delimiter_of, rows
from worker.questions.errors import MAX_PROBLEMS, Problem, QuestionSetError
from worker.questions.normalising import normalise

__all__ = ["Problem", "Question", "QuestionSet", "QuestionSetError", "read_question_set"]

MAX_BYTES = 10 * 1024 * 1024
MAX_QUESTIONS = 10_000
MAX_ID, MAX_TEXT, MAX_FRAGMENT = 100, 2_000, 500  # characters
MAX_FRAGMENTS = 12
MAX_COLUMNS = 100
MAX_EMPTY_LINES = 100_000
MAX_WARNINGS = 20

COLUMNS = {
    "question": ("question", "questions", "question_text", "q", "prompt", "domanda"),
    "expected_fragments": ("expected_fragments", "expected", "answer", "answers", "a", "risposta", "risposte"),
    "id": ("id", "question_id"),
    "answerable": ("answerable",),
}
"""What a header may call each column; ``_`` stands for a blank or a dash as well."""
_COLUMN_OF = {name: column for column, names in COLUMNS.items() for name in names}
_ANSWERABLE = {"": True, "yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_BETWEEN_FRAGMENTS = re.compile(r"[;|\r\n]")


def _says_something(text: str) -> str:
    if "\0" in text or not normalise(text):
        raise ValueError("a text without a visible character, or with a NUL, cannot be asked or found")
    return text


Text = Annotated[str, AfterValidator(_says_something)]


class Question(BaseModel):
    """One question and what its answer must hold.

    Attributes:
        id: names it within its set.
        text: what the engine is asked.
        expected_fragments: texts that a right answer contains, all of them; empty if any answer will do.
        answerable: ``False`` for a question that the documents do not answer, where the right answer is a refusal.
    """

    model_config = ConfigDict(frozen=True)

    id: Text = Field(min_length=1, max_length=MAX_ID)
    text: Text = Field(min_length=1, max_length=MAX_TEXT)
    expected_fragments: tuple[Annotated[Text, Field(min_length=1, max_length=MAX_FRAGMENT)], ...] = Field(
        default=(), max_length=MAX_FRAGMENTS
    )
    answerable: bool = True

    @model_validator(mode="after")
    def _expects_nothing_of_a_refusal(self) -> Self:
        if self.expected_fragments and not self.answerable:
            raise ValueError("a question that cannot be answered expects no fragments")
        return self


class QuestionSet(BaseModel):
    """The questions of one file, in its order.

    Attributes:
        name: the file's name.
        questions: at least one, their ids all different.
        warnings: what was skipped or ignored, in sentences that name the lines.
    """

    model_config = ConfigDict(frozen=True)

    name: str = Field(min_length=1)
    questions: tuple[Question, ...] = Field(min_length=1, max_length=MAX_QUESTIONS)
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _tells_questions_apart(self) -> Self:
        if len({question.id for question in self.questions}) < len(self.questions):
            raise ValueError("two questions of a set have the same id")
        return self


def read_question_set(content: bytes, name: str, *, max_bytes: int = MAX_BYTES) -> QuestionSet:
    """Read a CSV file.

    Args:
        content: the bytes of the file.
        name: what errors and reports call it.
        max_bytes: the longest ``content`` that is looked at.

    Raises:
        QuestionSetError: the file cannot be taken as it is; it lists what to change.
    """
    if len(content) > max_bytes:
        message = f"{len(content):,} bytes, but at most {max_bytes:,} are read: split it into several sets"
        raise QuestionSetError(name, (Problem(None, message),))
    text = decode(content, name)
    reading = _Reading(name)
    for row in rows(text, delimiter_of(text, lambda cell: _header_name(cell) in _COLUMN_OF)):
        if isinstance(row, Problem):
            reading.refuse(row.line, row.message)
        else:
            reading.take(row)
    return reading.result()


class _Reading:
    """What is known of a file so far: its columns, its questions, and what was wrong or skipped."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._columns: dict[str, int] = {}
        self._width = 0
        self._questions: list[tuple[int, str, Question]] = []  # line, id as given, question (its id still open)
        self._line_of_id: dict[str, int] = {}
        self._first_asked: dict[str, tuple[int, Question]] = {}
        self._filled_lines = 0
        self._empty_lines: list[int] = []
        self._warnings: list[str] = []
        self._problems: list[Problem] = []

    def refuse(self, line: int | None, message: str) -> None:
        self._problems.append(Problem(line, message))
        if len(self._problems) == MAX_PROBLEMS:
            raise self._error()

    def take(self, row: Row) -> None:
        if row.blank:
            self._empty_lines.append(row.line)
            if len(self._empty_lines) > MAX_EMPTY_LINES:
                self.refuse(row.line, f"more than {MAX_EMPTY_LINES:,} empty lines: delete them")
                raise self._error()
        elif not self._columns:
            self._take_header(row)
        else:
            self._filled_lines += 1
            if self._filled_lines > MAX_QUESTIONS:
                self.refuse(row.line, f"more than {MAX_QUESTIONS:,} questions: split the file into several sets")
                raise self._error()
            self._take_question(row)

    def result(self) -> QuestionSet:
        if not self._columns and not self._problems:
            self.refuse(None, "the file is empty; it needs a header line such as id,question,expected_fragments")
        if not self._filled_lines and not self._problems:
            self.refuse(None, "no question below the header; write one a line")
        questions = self._named() if not self._problems else ()
        if self._problems:
            raise self._error()
        if self._empty_lines:
            lines, some = _lines(self._empty_lines), len(self._empty_lines)
            self._warnings.append(f"{some:,} empty {'line was' if some == 1 else 'lines were'} skipped ({lines})")
        if (over := len(self._warnings) - MAX_WARNINGS) > 0:
            self._warnings[MAX_WARNINGS:] = [f"{over:,} more warnings like these"]
        return QuestionSet(name=self._file, questions=questions, warnings=tuple(self._warnings))

    def _error(self) -> QuestionSetError:
        return QuestionSetError(self._file, tuple(self._problems))

    def _take_header(self, row: Row) -> None:
        self._width = len(row.cells)
        if self._width > MAX_COLUMNS:
            self.refuse(row.line, f"a header of {self._width:,} columns, but at most {MAX_COLUMNS} are looked at")
            raise self._error()
        for index, cell in enumerate(row.cells):
            column = _COLUMN_OF.get(_header_name(cell))
            if column is None:
                if cell:
                    near = get_close_matches(_header_name(cell), _COLUMN_OF, n=1)
                    hint = f"; did you mean '{near[0]}'?" if near else ""
                    self._warnings.append(f"line {row.line}: column '{_short(cell)}' is not used{hint}")
            elif column in self._columns:
                first = row.cells[self._columns[column]]
                self.refuse(row.line, f"columns '{first}' and '{cell}' both mean '{column}': keep one of them")
            else:
                self._columns[column] = index
        if missing := [column for column in ("question", "expected_fragments") if column not in self._columns]:
            found = ", ".join(f"'{_short(cell)}'" for cell in row.cells[:20])
            needed = " and ".join(f"'{column}'" for column in missing)
            self.refuse(row.line, f"the header has no column {needed}; it has {found}: name the columns in this line")
        if self._problems:
            raise self._error()

    def _take_question(self, row: Row) -> None:
        if any(row.cells[self._width :]):
            self.refuse(
                row.line,
                f"{len(row.cells)} cells under a header of {self._width}: "
                "put quotes around a text that holds the delimiter",
            )
            return
        given = {column: row.cells[index] if index < len(row.cells) else "" for column, index in self._columns.items()}
        before = len(self._problems)
        text, question_id = given["question"], " ".join(given.get("id", "").split())
        if not normalise(question_id):
            question_id = ""
        if not normalise(text):
            other = "an expected fragment" if given["expected_fragments"] else "other cells"
            self.refuse(row.line, f"{other}, but no question: write the question or empty the line")
        elif len(text) > MAX_TEXT:
            self.refuse(row.line, f"a question of {len(text):,} characters, but at most {MAX_TEXT:,} can be asked")
        fragments = self._fragments(row.line, given["expected_fragments"])
        answerable = _ANSWERABLE.get(given.get("answerable", "").casefold())
        if answerable is None:
            wrong = _short(given["answerable"])
            self.refuse(row.line, f"answerable is '{wrong}': write yes, no, true, false, 1 or 0")
        elif not answerable and fragments:
            self.refuse(row.line, "answerable is no, yet fragments are expected: change one or the other")
        if len(question_id) > MAX_ID:
            self.refuse(row.line, f"an id of {len(question_id):,} characters, but at most {MAX_ID} are kept")
        if len(self._problems) == before:
            draft = Question(
                id=question_id or "-", text=text, expected_fragments=fragments, answerable=bool(answerable)
            )
            self._keep(row.line, question_id, draft)

    def _fragments(self, line: int, cell: str) -> tuple[str, ...]:
        """Split a cell; the same fragment twice counts once."""
        fragments = {normalise(part): part.strip() for part in reversed(_BETWEEN_FRAGMENTS.split(cell))}
        fragments.pop("", None)
        if len(fragments) > MAX_FRAGMENTS:
            self.refuse(line, f"{len(fragments)} expected fragments, but at most {MAX_FRAGMENTS} are scored")
        elif long := [part for part in fragments.values() if len(part) > MAX_FRAGMENT]:
            size = f"{len(long[0]):,} characters, but at most {MAX_FRAGMENT}"
            self.refuse(line, f"an expected fragment of {size} are scored: keep what the answer must say")
        return tuple(reversed(fragments.values()))

    def _keep(self, line: int, question_id: str, question: Question) -> None:
        asked = normalise(question.text)
        if asked in self._first_asked:
            first_line, first = self._first_asked[asked]
            same = (first.expected_fragments, first.answerable) == (question.expected_fragments, question.answerable)
            kept = "it is asked once" if same else f"it is asked once, and line {first_line} says what is expected"
            self._warnings.append(f"line {line}: the same question as in line {first_line}; {kept}")
            return
        self._first_asked[asked] = line, question
        if question_id and question_id in self._line_of_id:
            self.refuse(line, f"id '{question_id}' is already that of line {self._line_of_id[question_id]}")
            return
        if question_id:
            self._line_of_id[question_id] = line
        self._questions.append((line, question_id, question))

    def _named(self) -> tuple[Question, ...]:
        """Give each question without an id its place as one: ``q01`` to ``q12`` in a set of twelve."""
        digits = len(str(len(self._questions)))
        named = []
        for place, (line, question_id, question) in enumerate(self._questions, start=1):
            default = f"q{place:0{digits}}"
            if not question_id and default in self._line_of_id:
                taken = self._line_of_id[default]
                self.refuse(line, f"no id, and '{default}', which it would get, is that of line {taken}: write one")
            named.append(question.model_copy(update={"id": question_id or default}))
        return tuple(named)


def _header_name(cell: str) -> str:
    return re.sub(r"[\s_-]+", "_", cell.strip().casefold())


def _short(cell: str) -> str:
    return cell if len(cell) <= 40 else cell[:39] + "…"  # noqa: PLR2004 - enough to recognise a cell by


def _lines(numbers: list[int], most: int = 5) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return f"{'line' if len(numbers) == 1 else 'lines'} {shown}{', …' if len(numbers) > most else ''}"
