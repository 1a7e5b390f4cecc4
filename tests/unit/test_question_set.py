"""Reading question sets: what is taken, what is refused, and how a person learns what to change."""

import copy

import pytest
from pydantic import ValidationError

from worker.questions.errors import MAX_PROBLEMS, Problem
from worker.questions.question_set import (
    MAX_EMPTY_LINES,
    MAX_FRAGMENTS,
    MAX_QUESTIONS,
    MAX_WARNINGS,
    Question,
    QuestionSet,
    QuestionSetError,
    read_question_set,
)


def read(text: str, encoding: str = "utf-8") -> QuestionSet:
    return read_question_set(text.encode(encoding), "set.csv")


def refusal(content: str | bytes) -> QuestionSetError:
    with pytest.raises(QuestionSetError) as caught:
        read_question_set(content.encode() if isinstance(content, str) else content, "set.csv")
    return caught.value


def test_a_full_file_is_read_as_it_stands() -> None:
    questions = read(
        "id,question,expected_fragments,answerable\n"
        'torque,"Torque of the M8, please?",45 Nm;M8,yes\n'
        "price,What does it cost?,,no\n"
    )

    assert questions.name == "set.csv"
    assert questions.questions == (
        Question(id="torque", text="Torque of the M8, please?", expected_fragments=("45 Nm", "M8")),
        Question(id="price", text="What does it cost?", answerable=False),
    )
    assert questions.warnings == ()


@pytest.mark.parametrize("header", ["Domanda;Risposte", "Q;A", "QUESTION;expected", "Question Text;Expected-Fragments"])
def test_a_header_may_use_the_names_of_older_tools_in_any_case(header: str) -> None:
    (question,) = read(f"{header}\nWhich oil?;ISO VG 220\n").questions

    assert (question.text, question.expected_fragments) == ("Which oil?", ("ISO VG 220",))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_the_one_that_makes_the_header_known(delimiter: str) -> None:
    # Each text holds the other delimiters, which defeats counting them.
    others = "".join({",", ";", "\t"} - {delimiter})
    text = f"which{others}one{others}is{others}it{others}then"
    (question,) = read(delimiter.join(["question", "expected_fragments"]) + f"\n{text}{delimiter}x|y\n").questions

    assert question.text == text
    assert question.expected_fragments == ("x", "y")


@pytest.mark.parametrize(
    ("separated", "fragments"), [("a;b", "ab"), ("a|b", "ab"), ("a\nb", "ab"), (" a ;; b |\n", "ab")]
)
def test_fragments_are_split_at_semicolons_bars_and_line_breaks(separated: str, fragments: str) -> None:
    (question,) = read(f'question,expected_fragments\nx?,"{separated}"\n').questions

    assert question.expected_fragments == tuple(fragments)


def test_a_fragment_given_twice_counts_once_in_its_first_spelling() -> None:
    (question,) = read("question,expected_fragments\nx?,45 Nm;M8;45Nm;m8\n").questions

    assert question.expected_fragments == ("45 Nm", "M8")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_utf_8_and_marked_utf_16_are_read(encoding: str) -> None:
    (question,) = read("question,expected_fragments\nWie heißt es?,Öl\n", encoding).questions

    assert (question.text, question.expected_fragments) == ("Wie heißt es?", ("Öl",))


def test_another_encoding_is_refused_with_the_byte_the_line_and_the_cure() -> None:
    content = "question,expected_fragments\nx?,y\nWie heißt es?,z\n".encode("cp1252")

    error = refusal(content)

    assert error.line == 3
    assert f"byte {content.index(0xDF) + 1} (0xDF)" in error.message
    assert "save it as UTF-8" in error.message


def test_the_byte_counts_from_the_start_of_the_file_mark_included() -> None:
    assert "byte 5 (0xE4)" in refusal(b"\xef\xbb\xbfQ\xe4").message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04rest", "workbook"),
        ("question,expected_fragments\nx,y".encode("utf-16-le"), "NUL"),
        (b"\xff\xfex", "not UTF-16"),
    ],
)
def test_what_is_no_text_is_refused_by_its_name(content: bytes, says: str) -> None:
    assert says in refusal(content).message


def test_a_nul_is_refused_with_its_line() -> None:
    error = refusal("question,expected_fragments\nx,y\r\na\0,b\n")

    assert (error.line, "NUL" in error.message) == (3, True)


def test_a_missing_column_is_told_with_the_columns_found_and_needed() -> None:
    error = refusal("id,question,note\n1,x,y\n")

    assert error.line == 1
    assert "'expected_fragments'" in error.message
    assert "'id', 'question', 'note'" in error.message


def test_two_columns_for_one_thing_are_refused() -> None:
    assert "'Q' and 'Question'" in refusal("Q,Question,A\nx,y,z\n").message


def test_an_unknown_column_is_a_warning_that_guesses_what_was_meant() -> None:
    (warning,) = read("question,expected_fragments,answerabel\nx,y,no\n").warnings

    assert "'answerabel'" in warning
    assert "did you mean 'answerable'?" in warning


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file_is_refused_with_an_example_of_a_header(content: str) -> None:
    assert "id,question,expected_fragments" in refusal(content).message


def test_a_header_alone_is_refused() -> None:
    assert "no question below the header" in refusal("question,expected_fragments\n,\n").message


def test_all_problems_are_told_at_once_each_with_its_line() -> None:
    error = refusal(
        "id,question,expected_fragments,answerable\n"
        "1,,45 Nm,\n"
        "2,x?,y,no\n"
        "3,z?,,perhaps\n"
        "4,w?,,\n"
        "4,v?,,\n"
        f"5,{'l' * 2001},,\n"
        f"{'i' * 101},u?,{'f' * 501},\n"
        f"7,t?,{';'.join(map(str, range(13)))},\n"
        "8,s?,a,yes,more\n"
    )

    assert [problem.line for problem in error.problems] == [2, 3, 4, 6, 7, 8, 8, 9, 10]
    said = [problem.message for problem in error.problems]
    for message, part in zip(
        said,
        ["no question", "answerable is no", "'perhaps'", "line 5", "2,001", "501", "101", "13 expected", "5 cells"],
        strict=True,
    ):
        assert part in message
    assert str(error).count("\n") == 9
    assert (error.file, error.line, error.message) == ("set.csv", 2, said[0])


def test_reading_stops_at_the_twentieth_problem() -> None:
    error = refusal("question,expected_fragments\n" + ",x\n" * 30)

    assert len(error.problems) == MAX_PROBLEMS
    assert "the first 20 problems" in str(error)


def test_an_error_survives_a_copy_with_all_it_says() -> None:
    error = QuestionSetError("a.csv", (Problem(2, "wrong"), Problem(None, "worse")))

    copied = copy.copy(error)  # rebuilt from its args, as wherever an error crosses a process

    assert (copied.problems, str(copied)) == (error.problems, str(error))


def test_an_open_quote_is_told_with_the_line_it_opens_on() -> None:
    error = refusal('question,expected_fragments\nx?,y\n"z?,w\nv?,u\n')

    assert error.line == 3
    assert "quotes" in error.message


def test_lines_are_counted_through_quoted_line_breaks() -> None:
    assert refusal('question,expected_fragments\r\n"two\r\nlines?",y\r\n,z\r\n').line == 4


def test_empty_lines_are_skipped_and_told() -> None:
    questions = read("question,expected_fragments\nx?,y\n\n , \nz?,w\n")

    assert [question.id for question in questions.questions] == ["q1", "q2"]
    assert questions.warnings == ("2 empty lines were skipped (lines 3, 4)",)


def test_a_repeated_question_is_asked_once_and_both_lines_are_told() -> None:
    questions = read("id,question,expected_fragments\na,Which oil?,ISO\nb,  WHICH   oil? ,ISO\nc,Which oil?,SAE\n")

    (question,) = questions.questions
    assert (question.id, question.expected_fragments) == ("a", ("ISO",))
    same, other = questions.warnings
    assert same == "line 3: the same question as in line 2; it is asked once"
    assert "line 2 says what is expected" in other


def test_a_line_pasted_twice_with_its_id_is_a_warning_not_an_error() -> None:
    assert len(read("id,question,expected_fragments\na,x?,y\na,x?,y\n").warnings) == 1


def test_questions_without_ids_are_numbered_with_leading_zeros() -> None:
    questions = read("question,expected_fragments\n" + "".join(f"x{n}?,y\n" for n in range(12))).questions

    assert [questions[0].id, questions[11].id] == ["q01", "q12"]


def test_a_default_id_that_another_line_already_has_is_refused() -> None:
    error = refusal("id,question,expected_fragments\n,x?,y\nq1,z?,w\n")

    assert error.line == 2
    assert "line 3" in error.message


@pytest.mark.slow
def test_more_questions_than_a_set_holds_are_refused_at_the_first_too_many() -> None:
    lines = "".join(f"x{n}?,\n" for n in range(MAX_QUESTIONS))
    header = "question,expected_fragments\n"

    assert len(read(header + lines).questions) == MAX_QUESTIONS
    assert refusal(header + lines + "one more?,\n").line == MAX_QUESTIONS + 2


def test_bytes_empty_lines_columns_and_warnings_are_bounded() -> None:
    with pytest.raises(QuestionSetError, match="9 bytes, but at most 8"):
        read_question_set(b"123456789", "set.csv", max_bytes=8)
    assert "empty lines" in refusal("question,expected_fragments\nx,y\n" + "\n" * (MAX_EMPTY_LINES + 1)).message
    assert "columns" in refusal("question,expected_fragments" + ",c" * 99 + "\nx,y\n").message
    warnings = read("question,expected_fragments\n" + "x?,y\n" * 31).warnings
    assert len(warnings) == MAX_WARNINGS + 1
    assert warnings[-1] == "10 more warnings like these"


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"text": ""},
        {"text": "\u200b"},
        {"text": "a\0b"},
        {"text": "x" * 2001},
        {"expected_fragments": ("",)},
        {"expected_fragments": ("\u200b",)},
        {"expected_fragments": ("x" * 501,)},
        {"expected_fragments": tuple(f"f{n}" for n in range(MAX_FRAGMENTS + 1))},
        {"expected_fragments": ("x",), "answerable": False},
    ],
)
def test_a_question_made_by_hand_keeps_the_same_rules(wrong: dict[str, object]) -> None:
    right = {"id": "q1", "text": "x?", "expected_fragments": ("y",)}
    Question.model_validate(right)

    with pytest.raises(ValidationError):
        Question.model_validate(right | wrong)


def test_a_set_made_by_hand_tells_its_questions_apart() -> None:
    question = Question(id="q1", text="x?")

    with pytest.raises(ValidationError, match="same id"):
        QuestionSet(name="s", questions=(question, question))
