"""The error a question set is refused with: which file, which lines, and what to change in each."""

from dataclasses import dataclass

MAX_PROBLEMS = 20
"""Reading a file stops at this many problems; a person mends those first."""


@dataclass(frozen=True)
class Problem:
    """One thing to change in a file.

    Attributes:
        line: the line of the file it begins on, from 1; ``None`` for the file as a whole.
        message: what is wrong there and what to do about it.
    """

    line: int | None
    message: str

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


class QuestionSetError(ValueError):
    """A file is no question set; nothing of it was taken.

    Attributes:
        file: its name, as the caller gave it.
        problems: what to change, in the order of the file; at least one, at most ``MAX_PROBLEMS``.
        line, message: those of the first problem.
    """

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(file, problems)
        self.file, self.problems = file, problems
        self.line, self.message = problems[0].line, problems[0].message

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.file}, {self.problems[0]}" if self.line else f"{self.file}: {self.message}"
        count = f"the first {MAX_PROBLEMS}" if len(self.problems) == MAX_PROBLEMS else str(len(self.problems))
        return "\n  ".join([f"{self.file}: {count} problems, nothing was taken", *map(str, self.problems)])
