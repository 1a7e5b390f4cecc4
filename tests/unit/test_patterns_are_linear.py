"""No pattern of ours can be held up by the text that it is used on: twice the text costs about twice the time.

Every regular expression of both packages is found: what modules hold, also in tables and in objects, and what their
functions hand to :mod:`re`. Each is searched for in texts made of its own parts, which is what backtracking needs:
repeated characters and pairs, near-misses, long runs of one kind. A text is long only where a short one gives cause.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import translate
from re import _parser as parser  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any

import pytest

import repositories
import worker
from repositories.cache.glob import compile_glob
from worker.engines.anythingllm.abridging import Abridger
from worker.engines.anythingllm.errors import TABLE
from worker.questions.normalising import normalise
from worker.questions.report_html import _spelling
from worker.questions.scoring import _pattern, contains

LENGTH = 20_000
SHORT = 1_000
SECONDS = 1.0  # the quadratic ones take many: a hundredth of it is usual
UNSUSPICIOUS_SECONDS = 0.000_1  # of a short text: were it quadratic, the long one would take 400 times as long

Found = tuple[re.Pattern[Any], str]  # and how it is used: "finditer" stands for all that search and replace

_SKIPPED = {"repositories.migrations.env", "worker.__main__"}
_ONLY_MATCHED = {"repositories.cache.glob", "worker.sources.globs"}  # what its functions return is never searched for
# Where the pattern is an argument: how many stand before its flags.
_FLAGS_AT = {"compile": 1, "match": 2, "search": 2, "fullmatch": 2, "findall": 2, "finditer": 2, "split": 3, "sub": 4}
_FRAGMENTS = ("a b", "1 000,5", "-7", "a  b-c", "1.1.1.1", "a" * 50, "a b " * 20)
# What a function makes its patterns from is known when it is called: examples, by the module and the expression.
MADE: dict[tuple[str, str], list[str | bytes | re.Pattern[Any]]] = {
    ("repositories.cache.glob", "runs[0] + b'\\\\Z'"): [compile_glob("a?[a-z]"), compile_glob("a" * 50)],
    ("repositories.cache.glob", "first + inner + b'.*' + last + b'\\\\Z'"): [
        compile_glob("*a" * 20),
        compile_glob("a*b?*c"),
    ],
    ("worker.engines.anythingllm.abridging", "b'(?:[^\"]++|' + short + b')*+'"): [
        Abridger(8)._short,
        Abridger(500)._short,
    ],
    ("worker.engines.anythingllm.abridging", "b'\"%s{0,%d}+' % (_CHARACTER, keep)"): [Abridger(500)._head],
    ("worker.engines.anythingllm.errors", "self.pattern"): [re.compile(row.pattern, re.IGNORECASE) for row in TABLE],
    ("worker.engines.anythingllm.naming", "f'{document.job_id}-{document.position}-(\\\\d+)(?:-\\\\d+)?\\\\.'"): [
        r"aaaa-1-(\d+)(?:-\d+)?\."
    ],
    ("worker.engines.anythingllm.transport", "f'(?:{path})?{re.escape(call.upload.name)}'"): [
        r"(?:(?<![^\s'\"])[^\s'\"]{0,500}/)?aaaa-1\.pdf",
        r"(?:(?<![^\s'\"])[^\s'\"]{0,500}/)?a",
    ],
    # Tables of their modules hold these.
    ("worker.engines.local.expectations", "f'\\\\b(?:{asked})\\\\b'"): [],
    ("worker.engines.local.expectations", "f'(?<![^\\\\W_])(?:{given})(?![^\\\\W_])'"): [],
    ("worker.engines.local.expectations", "f'(?<![^\\\\W\\\\d_])(?:{units})(?![^\\\\W_])'"): [],
    ("worker.masking.named", "f'(?<!\\\\\\\\){re.escape(slashes)}{quote}'"): [],
    ("worker.questions.report_html", "'|'.join(spellings)"): [
        re.compile("|".join(map(_spelling, _FRAGMENTS)), re.IGNORECASE),
        *(re.compile(_spelling(fragment), re.IGNORECASE) for fragment in _FRAGMENTS),
    ],
    ("worker.questions.scoring", "_before(fragment) + re.escape(fragment) + _after(fragment)"): [
        _pattern(normalise(fragment)) for fragment in _FRAGMENTS
    ],
    ("worker.sources.globs", "fnmatch.translate(part)"): [translate("*a" * 20), translate("[a-z]*?*b")],
}
_PIECES = [
    *(" ", "a", "1", ".", ",", ":", "/", "@", "?", "=", "-", "_", "#", "<", "(", "[", "{"),
    *("'", '"', "\\", "\n", "*", "|"),
    *("1.", "1,", "1 ", "a.", "a-", "a/", "a ", "://", "http://a@", "?a=", "<a", "&#", "[a](", "![", "**a", "> "),
    *('"a",', "\r\n", "=?", "%2", "../", "a\u0301", "\u6f22", "a;b=", "\x1b["),
]  # fmt: skip


def modules() -> Iterator[ModuleType]:
    for package in (repositories, worker):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in _SKIPPED and ".migrations.versions" not in module.name:
                yield importlib.import_module(module.name)


def held(value: Any, seen: set[int], depth: int = 0) -> Iterator[re.Pattern[Any]]:
    """The patterns that a value of a module holds, however deep."""
    if isinstance(value, re.Pattern):
        yield value
    elif depth < 6 and id(value) not in seen:
        seen.add(id(value))
        for part in _parts(value):
            yield from held(part, seen, depth + 1)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, tuple | list | set | frozenset):
        return value
    owner = value if inspect.isclass(value) else type(value)
    if not str(owner.__module__).startswith(("repositories", "worker")):
        return ()
    slots = [getattr(value, name, None) for name in getattr(owner, "__slots__", ())]
    return [*getattr(value, "__dict__", {}).values(), *slots]


def handed(module: ModuleType) -> Iterator[Found | str]:
    """The patterns that a module's code hands to ``re``; a text says which expression has no example in ``MADE``."""
    for call in ast.walk(ast.parse(inspect.getsource(module))):
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Name("re"), attr=name), args=[pattern, *_]) if name in _FLAGS_AT:
                behind = call.args[_FLAGS_AT[name] :] or [word.value for word in call.keywords if word.arg == "flags"]
                how = name if name in {"match", "fullmatch"} else "finditer"
                how = "match" if module.__name__ in _ONLY_MATCHED else how
                expression = ast.unparse(pattern)
                try:
                    flags = _evaluated(behind[0], module) if behind else 0
                    yield re.compile(_evaluated(pattern, module), flags), how
                except NameError:
                    if (module.__name__, expression) not in MADE:
                        yield f"{module.__name__}: {expression}"
                    for made in MADE.get((module.__name__, expression), ()):
                        yield re.compile(made), how


def _evaluated(expression: ast.expr, module: ModuleType) -> Any:
    return eval(compile(ast.Expression(expression), "", "eval"), vars(module))  # noqa: S307 - our own source


def patterns() -> tuple[dict[str, Found], list[str]]:
    found: dict[tuple[Any, int, str], tuple[str, Found]] = {}
    unknown: list[str] = []
    seen: set[int] = set()
    for module in modules():
        searched: Iterable[Found | str] = ((each, "finditer") for each in held(list(vars(module).values()), seen))
        for number, each in enumerate([*searched, *handed(module)]):
            if isinstance(each, str):
                unknown.append(each)
            else:
                found.setdefault((each[0].pattern, each[0].flags, each[1]), (f"{module.__name__}-{number}", each))
    return dict(found.values()), unknown


PATTERNS, UNKNOWN = patterns()


def test_the_patterns_of_both_packages_are_found() -> None:
    assert UNKNOWN == []
    assert len(PATTERNS) > 150


def _literals(pattern: re.Pattern[Any]) -> Iterator[str]:
    """What the pattern spells out, run by run."""
    source = pattern.pattern.decode("latin-1") if isinstance(pattern.pattern, bytes) else pattern.pattern
    run = ""
    for operator, argument in _operations(list(parser.parse(source, pattern.flags & re.VERBOSE))):
        if str(operator) == "LITERAL":
            run += chr(argument)
        elif run:
            yield run
            run = ""
    if run:
        yield run


def _operations(parsed: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    for part in parsed:
        match part:
            case (operator, argument) if str(operator) in {"LITERAL", "NOT_LITERAL"}:
                yield part
            case (operator, argument) if str(operator).isupper():
                yield operator, None
                yield from _operations([argument])
                yield operator, None
            case list() | tuple() | parser.SubPattern():
                yield from _operations(list(part))


def _texts(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str]]:
    """Beginnings, and what is repeated behind them."""
    runs = [run for run in dict.fromkeys(_literals(pattern)) if run.isprintable()][:6]
    signs = list(dict.fromkeys("".join(runs)))[:6]
    for piece in dict.fromkeys([*_PIECES, *runs, *signs, *(a + b for a in signs[:3] for b in signs[:3])]):
        yield "", piece
    for run in runs[:3]:
        for piece in (" ", "a", "1", *signs[:4]):
            yield run, piece


def _seconds(pattern: re.Pattern[Any], how: str, beginning: str, piece: str, length: int) -> float:
    text = f"{beginning}{piece * (length // len(piece))}\x00"  # nearly to the end, and then no
    searched: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
    began = time.process_time()
    if how == "finditer":
        deque(pattern.finditer(searched), 0)
        pattern.match(searched)
    else:
        getattr(pattern, how)(searched)
    return time.process_time() - began


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_a_pattern_takes_no_longer_than_its_text_deserves(name: str) -> None:
    pattern, how = PATTERNS[name]
    for beginning, piece in _texts(pattern):
        short = _seconds(pattern, how, beginning, piece, SHORT)
        if short < UNSUSPICIOUS_SECONDS or short < 3 * _seconds(pattern, how, beginning, piece, SHORT // 2):
            continue
        assert _seconds(pattern, how, beginning, piece, LENGTH) < SECONDS, (pattern.pattern, beginning, piece)


@pytest.mark.parametrize("made", [r"(a+)+b", r"a.*?b.*?c", r"\s+x", r"(?:<a.*?>)+<", r"\d+[.,]?\d+x"])
def test_one_that_takes_longer_is_found(made: str) -> None:
    pattern = re.compile(made)
    length, longest = 8, 0.0
    while length < LENGTH and longest < 0.02:
        length = length * 5 // 4  # what grows exponentially is not to be tried on twice the text
        longest = max(_seconds(pattern, "finditer", *text, length) for text in _texts(pattern))
    assert longest >= 0.02


@pytest.mark.parametrize("piece", [*dict.fromkeys(_PIECES), "1.1kg ", "1,000 ", "20 - 25 ", "10²"])
def test_reading_an_answer_takes_no_longer_than_it_deserves(piece: str) -> None:
    text = piece * (LENGTH // 2 // len(piece))
    began = time.process_time()

    assert normalise(normalise(text)) == normalise(text)
    contains(text, "45 Nm")

    assert time.process_time() - began < SECONDS / 4  # of half the length: what is quadratic takes a quarter
