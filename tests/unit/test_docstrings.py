"""Every public name of ``repositories`` says what it means, and what it says of parameters and errors is so."""

import builtins
import importlib
import inspect
import pkgutil
import pydoc
import re
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import pytest

import repositories
from repositories import BaseRepository, ItemRepository, JobRepository, WorkspaceRepository, errors
from repositories.cache import errors as cache_errors
from repositories.embedded import errors as embedded_errors

# They run when they are imported: Alembic's entry and its steps, and the command of the examples.
RUN_ON_IMPORT = re.compile(r"repositories\.migrations\.(env|versions\b.*)|.*\.__main__")


class Named(NamedTuple):
    """A public name with its docstring; ``call`` is what its ``Args`` are the parameters of."""

    name: str
    doc: str
    call: Callable[..., Any] | None
    module: ModuleType


def modules() -> Iterator[ModuleType]:
    yield repositories
    for found in pkgutil.walk_packages(repositories.__path__, "repositories."):
        parts = found.name.split(".")
        if not RUN_ON_IMPORT.fullmatch(found.name) and not any(part.startswith("_") for part in parts):
            yield importlib.import_module(found.name)


def public_names() -> Iterator[Named]:
    for module in modules():
        yield Named(module.__name__, module.__doc__ or "", None, module)
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(value):
                yield from of_class(value, module)
            elif inspect.isfunction(value):
                yield Named(f"{module.__name__}.{name}", value.__doc__ or "", value, module)


def of_class(kind: type, module: ModuleType) -> Iterator[Named]:
    name = f"{module.__name__}.{kind.__qualname__}"
    written = "" if (kind.__doc__ or "").startswith(f"{kind.__name__}(") else kind.__doc__ or ""  # made by dataclasses
    yield Named(name, written, kind.__init__ if isinstance(kind.__init__, FunctionType) else None, module)  # type: ignore[misc]  # of this class
    for member, value in vars(kind).items():
        if member.startswith("_"):
            continue
        inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if isinstance(inner, property):
            yield Named(f"{name}.{member}", inner.__doc__ or "", None, module)
        elif inspect.isfunction(inner):
            yield Named(f"{name}.{member}", inner.__doc__ or "", inner, module)


def entries(doc: str, section: str) -> list[str]:
    """The names that a section of a docstring explains; one line may explain several."""
    found = re.search(rf"(?m)^{section}:\n((?:    .*\n|\n)+)", inspect.cleandoc(doc) + "\n")
    heads = re.findall(r"(?m)^    (\S[^:\n]*):", found[1]) if found else []
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def is_error(name: str, module: ModuleType) -> bool:
    path, _, last = name.rpartition(".")
    places = [importlib.import_module(path)] if path else [module, errors, cache_errors, embedded_errors, builtins]
    found = next((getattr(place, last) for place in places if hasattr(place, last)), None)
    return inspect.isclass(found) and issubclass(found, BaseException)


@pytest.fixture(scope="module")
def names() -> list[Named]:
    return list(public_names())


def test_every_public_name_has_a_docstring(names: list[Named]) -> None:
    assert len(names) > 300
    assert {BaseRepository.__module__ + ".BaseRepository.update", "repositories.database.init_db"} <= {
        named.name for named in names
    }
    assert [named.name for named in names if not named.doc.strip()] == []


def test_every_docstring_begins_with_a_sentence(names: list[Named]) -> None:
    # The first sentence alone is what an editor shows.
    first = {named.name: inspect.cleandoc(named.doc).split("\n\n")[0] for named in names}

    assert [name for name, text in first.items() if not re.search(r"[.:!?]([\"'`)]|``)?$", text)] == []


def test_arguments_are_those_of_the_signature(names: list[Named]) -> None:
    explained = {named.name: entries(named.doc, "Args") for named in names}
    unknown = {
        named.name: left
        for named in names
        if named.call is not None
        and (left := set(explained[named.name]) - set(inspect.signature(named.call).parameters))
    }

    assert sum(map(bool, explained.values())) > 30, "the section was not found"
    assert unknown == {}


def test_raised_errors_exist(names: list[Named]) -> None:
    raised = {named.name: entries(named.doc, "Raises") for named in names}
    unknown = {
        named.name: left
        for named in names
        if (left := [name for name in raised[named.name] if not is_error(name, named.module)])
    }

    assert sum(map(bool, raised.values())) > 50, "the section was not found"
    assert unknown == {}


@pytest.mark.parametrize("repository", [JobRepository, BaseRepository, ItemRepository, WorkspaceRepository])
def test_help_explains_every_method(repository: type) -> None:
    text = pydoc.plain(pydoc.render_doc(repository))
    empty = re.findall(r"(?m)^ \|  (?:async )?([a-z]\w*)\(.*\n \|  ?$", text)
    private = re.findall(r"(?m)^ \|  (?:async )?(_(?!_)\w+)\(", text)

    assert (empty, private) == ([], [])


def test_the_help_of_jobs_begins_with_every_method_by_purpose() -> None:
    methods = {name for name, _ in inspect.getmembers(JobRepository, inspect.isfunction) if not name.startswith("_")}
    purposes = re.findall(r"(?m)^- .*(?:\n  .*)*", inspect.getdoc(JobRepository) or "")
    listed = re.findall(r"``([a-z]\w+)``", " ".join(purposes))

    assert sorted(listed) == sorted(methods)
