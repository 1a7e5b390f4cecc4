"""The generic repository, on two small tables of the tests' own, and what it may do to a job."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from sqlalchemy import ForeignKey, Numeric, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from repositories.base import MAX_ROWS, BaseRepository
from repositories.database import DatabaseManager
from repositories.errors import (
    ConflictError,
    InUseError,
    InvalidCursorError,
    InvalidFilterError,
    InvalidValueError,
    NotFoundError,
    ProtectedFieldError,
    StaleUpdateError,
)
from repositories.jobs import JobRepository
from repositories.jobs.guarded import JobEdit
from repositories.models import Job
from repositories.schemas import JobCreate, JobUpdate, NewJob, PaginationParams
from repositories.states import JobStatus
from tests.factories import LEASE, job_in, new_job, queued_jobs, running_jobs


class Library(DeclarativeBase):
    """Tables apart from the package's, so that no test of the schema sees them."""

    type_annotation_map = {datetime: TIMESTAMP(timezone=True), str: Text}  # noqa: RUF012 - SQLAlchemy's own way


class Author(Library):
    __tablename__ = "authors"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    books: Mapped[list["Book"]] = relationship(back_populates="author", order_by="Book.id")


class Book(Library):
    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    pages: Mapped[int] = mapped_column(server_default="100")
    price: Mapped[Decimal | None] = mapped_column(Numeric(8, 2))
    weight: Mapped[float | None]
    printed_at: Mapped[datetime | None]
    extra: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default=text("'{}'"))
    genres: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    author_id: Mapped[UUID | None] = mapped_column(ForeignKey("authors.id"))
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    version: Mapped[int] = mapped_column(server_default="1")
    author: Mapped[Author | None] = relationship(back_populates="books")

    __table_args__ = (UniqueConstraint("title", name="uq_books_title"),)


class BookCreate(BaseModel):
    id: int | None = None
    title: str
    pages: int = 250
    metadata: dict[str, Any] | None = None


class BookUpdate(BaseModel):
    title: str | None = None
    price: Decimal | None = None
    weight: float | None = None


class AuthorCreate(BaseModel):
    name: str


Books = BaseRepository[Book, BookCreate, BookUpdate]
Authors = BaseRepository[Author, AuthorCreate, AuthorCreate]


@pytest.fixture
async def books(session: AsyncSession) -> Books:
    connection = await session.connection()
    await connection.run_sync(Library.metadata.create_all)  # rolled back with the rest
    return Books(Book, session)


@pytest.fixture
def authors(books: Books) -> Authors:
    return Authors(Author, books.session)


async def shelf(books: Books, *pages: int) -> list[Book]:
    return await books.bulk_create([{"title": f"book {place}", "pages": count} for place, count in enumerate(pages)])


# Writing one row


async def test_a_new_row_has_the_schemas_defaults_and_the_columns(books: Books) -> None:
    book = await books.create(BookCreate(title="Kestrels"), metadata={"shelf": 3})

    assert (book.pages, book.extra, book.version) == (250, {"shelf": 3}, 1)
    assert (await books.create({"title": "Herons"})).pages == 100


async def test_a_violated_constraint_is_told_by_name_column_and_value(books: Books) -> None:
    await books.create({"title": "Kestrels"})

    with pytest.raises(ConflictError) as caught:
        await books.create({"title": "Kestrels"})

    error = caught.value
    assert (error.constraint, error.columns, error.value) == ("uq_books_title", "title", "Kestrels")
    assert str(error) == "the write breaks a rule of the database: title = Kestrels (uq_books_title)"


async def test_a_missing_value_is_told_by_its_column_without_showing_the_row(books: Books) -> None:
    with pytest.raises(ConflictError) as caught:
        await books.create({"title": None, "metadata": {"secret": "(a)=(s3cret)"}})

    assert (caught.value.columns, caught.value.value) == ("title", "")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"pages": "many"}, {"pages": 2**40}, {"title": "nul \x00"}, {"price": 10**9}])
async def test_a_value_that_the_column_cannot_take_is_an_error_without_sql(
    books: Books, wrong: dict[str, object]
) -> None:
    with pytest.raises(InvalidValueError) as caught:
        await books.create({"title": "Kestrels"} | wrong)

    assert "INSERT" not in str(caught.value)
    assert "postgresql" not in str(caught.value)


async def test_an_unknown_column_is_an_error_that_names_those_there_are(books: Books) -> None:
    with pytest.raises(InvalidValueError, match="colour: no such column of books; there are author_id, genres"):
        await books.create({"title": "Kestrels", "colour": "red"})


async def test_unset_is_left_alone_and_none_is_written(books: Books) -> None:
    book = await books.create({"title": "Kestrels", "price": Decimal("9.50"), "weight": 0.4})

    after = await books.update(book.id, BookUpdate(weight=None))

    assert (after.title, after.price, after.weight) == ("Kestrels", Decimal("9.50"), None)


async def test_an_update_returns_the_row_as_the_database_has_it_and_refreshes_the_one_held(books: Books) -> None:
    book = await books.create({"title": "Kestrels"})
    before = book.updated_at
    await books.session.execute(text("UPDATE books SET pages = 7"))  # behind the session's back

    after = await books.update(str(book.id), {"metadata": {"shelf": 4}}, title="Herons")

    assert after is book
    assert (book.title, book.pages, book.extra, book.version) == ("Herons", 7, {"shelf": 4}, 2)
    assert book.updated_at > before


async def test_an_update_with_the_version_that_was_read_succeeds_once(books: Books) -> None:
    book = await books.create({"title": "Kestrels"})
    await books.update(book.id, {"pages": 10}, version=1)

    with pytest.raises(StaleUpdateError) as caught:
        await books.update(book.id, {"pages": 20}, version=1)

    error = caught.value
    assert (error.kind, error.id, error.expected, error.found) == ("book", book.id, 1, 2)
    assert (await books.get_by_id_or_raise(book.id)).pages == 10


async def test_an_update_of_nothing_writes_nothing_but_still_compares_the_version(books: Books) -> None:
    book = await books.create({"title": "Kestrels"})

    assert (await books.update(book.id, {})).version == 1
    with pytest.raises(StaleUpdateError):
        await books.update(book.id, {}, version=9)


async def test_an_update_of_no_row_is_not_found_with_and_without_a_version(books: Books) -> None:
    for version in (None, 1):
        with pytest.raises(NotFoundError, match="there is no book 404"):
            await books.update(404, {"pages": 1}, version=version)


async def test_a_version_is_refused_where_the_model_has_none_and_as_a_value(books: Books, authors: Authors) -> None:
    author = await authors.create(AuthorCreate(name="Ada"))
    with pytest.raises(InvalidValueError, match="authors has no version"):
        await authors.update(author.id, {"name": "Grace"}, version=1)
    book = await books.create({"title": "Kestrels"})
    with pytest.raises(ProtectedFieldError, match="version of a book is not edited"):
        await books.update(book.id, {"version": 9})
    with pytest.raises(ProtectedFieldError, match="id of a book is not edited"):
        await books.update(book.id, {"id": 9})


async def test_a_deleted_row_is_gone_once(books: Books) -> None:
    book = await books.create({"title": "Kestrels"})

    assert await books.delete(str(book.id))
    assert not await books.delete(book.id)
    assert await books.get_by_id(book.id) is None


async def test_a_row_that_others_refer_to_is_not_deleted(books: Books, authors: Authors) -> None:
    author = await authors.create({"name": "Ada"})
    await books.create({"title": "Kestrels", "author_id": author.id})

    with pytest.raises(ConflictError) as caught:
        await authors.delete(author.id)
    assert (caught.value.columns, caught.value.value) == ("id", str(author.id))


# Reading one row


@pytest.mark.parametrize("no_id", ["no id", "", None, 1.5, 2**40, True, "9" * 5_000, "\x00", object()])
async def test_what_cannot_be_a_key_is_simply_not_found(books: Books, authors: Authors, no_id: object) -> None:
    await books.create({"id": 1, "title": "Kestrels"})  # not to be found as True or 1.5
    for repository in (books, authors):
        assert await repository.get_by_id(no_id) is None
        assert not await repository.exists(no_id)
        assert not await repository.delete(no_id)
        with pytest.raises(NotFoundError):
            await repository.get_by_id_or_raise(no_id)
        with pytest.raises(NotFoundError):
            await repository.update(no_id, {})


async def test_a_row_is_read_as_it_is_now_and_not_as_the_session_remembers_it(books: Books) -> None:
    book = await books.create({"title": "Kestrels"})
    reads: list[Callable[[], Awaitable[Any]]] = [
        lambda: books.get_by_id(book.id),
        lambda: books.get_by_field("title", "Kestrels"),
        lambda: books.get_many([book.id]),
        books.list,
        books.list_after,
    ]
    for pages, read in enumerate(reads):
        await books.session.execute(text("UPDATE books SET pages = :pages"), {"pages": pages})
        await read()
        assert book.pages == pages


async def test_a_row_is_found_by_any_column_the_first_of_several(books: Books) -> None:
    first, _ = await shelf(books, 10, 10)

    assert await books.get_by_field("pages", 10) is first
    assert await books.get_by_field("pages", 11) is None
    with pytest.raises(InvalidFilterError, match="pages"):
        await books.get_by_field("pages", "ten")


async def test_many_rows_come_in_the_order_asked(books: Books) -> None:
    one, two, three = await shelf(books, 1, 2, 3)

    assert await books.get_many([three.id, str(one.id), 404, "no id", two.id]) == [three, one, two]


# Many rows


async def test_the_same_values_are_written_to_all_that_match_in_one_statement(
    books: Books, statements: list[str]
) -> None:
    rows = await shelf(books, 10, 20, 30)
    ids = [row.id for row in rows]
    del rows  # the session holds none of them, so there is nothing to refresh
    statements.clear()

    assert await books.update_many({"pages": {"ge": 20}}, {"price": Decimal(5)}) == 2

    assert len(statements) == 1, statements
    assert [row.price for row in await books.get_many(ids)] == [None, Decimal(5), Decimal(5)]


async def test_rows_that_the_session_holds_are_fresh_after_every_set_based_write(books: Books) -> None:
    first, second, third = await shelf(books, 10, 20, 30)

    await books.update_many({"pages": {"ge": 20}}, {"weight": 1.5})
    assert [(row.weight, row.version) for row in (first, second, third)] == [(None, 1), (1.5, 2), (1.5, 2)]
    await books.bulk_update([{"id": first.id, "pages": 11}, {"id": third.id, "weight": None}])
    assert [(row.pages, row.weight, row.version) for row in (first, second, third)] == [
        (11, None, 2),
        (20, 1.5, 2),
        (30, None, 3),
    ]


async def test_a_whole_table_is_changed_or_emptied_only_on_purpose(books: Books) -> None:
    await shelf(books, 10, 20)
    with pytest.raises(InvalidFilterError, match="at least one"):
        await books.update_many({}, {"pages": 1})
    with pytest.raises(InvalidFilterError, match="at least one"):
        await books.delete_many({})
    assert await books.count() == 2
    assert await books.delete_many({"id": {"is_null": False}}) == 2


async def test_thousands_of_rows_are_inserted_with_one_statement_a_chunk_in_their_order(
    books: Books, statements: list[str]
) -> None:
    titles = [f"book {(7 * place) % 12_000}" for place in range(12_000)]
    statements.clear()

    made = await books.bulk_create([BookCreate(title=title) for title in titles], weight=0.5)

    assert len(statements) == 3, [statement[:80] for statement in statements]
    assert [book.title for book in made] == titles
    assert {(book.pages, book.weight) for book in made} == {(250, 0.5)}


async def test_rows_that_set_different_columns_share_a_statement_with_their_like(
    books: Books, statements: list[str]
) -> None:
    await books.session.connection()
    statements.clear()
    made = await books.bulk_create(
        [{"title": str(place)} | ({"pages": place} if place % 2 else {}) for place in range(100)]
    )

    assert len(statements) == 2, statements
    assert [(book.title, book.pages) for book in made] == [
        (str(place), place if place % 2 else 100) for place in range(100)
    ]


async def test_thousands_of_rows_are_changed_each_to_its_own_in_one_statement_a_chunk(
    books: Books, statements: list[str]
) -> None:
    ids = [book.id for book in await shelf(books, *range(3_000))]
    statements.clear()

    changed = await books.bulk_update([{"id": id_, "pages": id_ * 2} for id_ in reversed(ids)])

    assert changed == 3_000
    assert len(statements) == 1, [statement[:80] for statement in statements]
    assert {book.id: book.pages for book in await books.get_many(ids)} == {id_: id_ * 2 for id_ in ids}


async def test_each_row_of_a_bulk_update_keeps_what_its_mapping_leaves_out(books: Books) -> None:
    one, two, three = await shelf(books, 1, 2, 3)

    changed = await books.bulk_update(
        [
            {"id": str(one.id), "metadata": {"a": 1}, "genres": ["x", "y"]},
            {"id": two.id, "price": Decimal("1.25"), "printed_at": datetime(2025, 1, 1, tzinfo=UTC)},
            {"id": 404, "pages": 9},
            {"id": "no id", "pages": 9},
            {"id": three.id},
        ]
    )

    assert changed == 2
    assert (one.extra, one.genres, one.pages, one.price) == ({"a": 1}, ["x", "y"], 1, None)
    assert (two.extra, two.price, two.printed_at) == ({}, Decimal("1.25"), datetime(2025, 1, 1, tzinfo=UTC))
    assert three.version == 1


async def test_a_bulk_update_names_its_rows_by_any_unique_column(books: Books) -> None:
    one, two = await shelf(books, 1, 2)

    assert await books.bulk_update([{"title": "book 1", "pages": 5}], id_field="title") == 1
    assert (one.pages, two.pages) == (1, 5)


async def test_a_bulk_update_that_is_ambiguous_or_names_no_row_is_refused_whole(books: Books) -> None:
    (book,) = await shelf(books, 1)
    wrongs: list[tuple[list[dict[str, Any]], str]] = [
        ([{"id": book.id, "pages": 2}, {"id": str(book.id), "pages": 3}], "named twice"),
        ([{"id": book.id, "pages": 2}, {"pages": 3}], "does not say which row"),
        ([{"id": book.id, "colour": "red"}], "no such column"),
    ]
    for wrong, message in wrongs:
        with pytest.raises(InvalidValueError, match=message):
            await books.bulk_update(wrong)
    assert (await books.get_by_id_or_raise(book.id)).pages == 1


async def test_many_rows_are_deleted_by_key_and_leave_the_session(books: Books, statements: list[str]) -> None:
    one, two, three = await shelf(books, 1, 2, 3)
    statements.clear()

    assert await books.bulk_delete([one.id, str(two.id), one.id, 404, "no id"]) == 2

    assert len(statements) == 1, statements
    assert one not in books.session
    assert (await books.list())[0] == [three]


async def test_one_call_takes_a_bounded_number_of_rows(books: Books, jobs: JobRepository) -> None:
    too_many = [{"id": 1, "title": "x"}] * (MAX_ROWS + 1)
    calls: list[Awaitable[Any]] = [
        books.bulk_create(too_many),
        books.bulk_update(too_many),
        books.bulk_delete([1] * (MAX_ROWS + 1)),
        jobs.bulk_create(too_many),
    ]
    for call in calls:
        with pytest.raises(InvalidValueError, match=f"at most {MAX_ROWS}"):
            await call


async def test_nothing_to_do_asks_nothing_of_the_database(books: Books, statements: list[str]) -> None:
    statements.clear()
    assert await books.bulk_create([]) == []
    assert await books.bulk_update([]) == 0
    assert await books.bulk_delete([]) == 0
    assert await books.get_many([]) == []
    assert statements == []


@pytest.mark.slow
async def test_two_writers_of_the_same_rows_in_opposite_orders_never_deadlock(
    database: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repositories.bulk._CHUNK", 50)  # the order among statements counts, too
    async with database.get_transaction() as session:
        ids = [job.id for job in await queued_jobs(JobRepository(session), 300)]

    async def edit(order: list[UUID]) -> None:
        for _ in range(10):
            async with database.get_transaction() as session:
                jobs = JobRepository(session)
                await jobs.bulk_update([{"id": id_, "priority": 1} for id_ in order])
                await jobs.update_many({"id": order}, {"priority": 2})

    await asyncio.gather(*(edit(order) for order in (ids, ids[::-1], ids[150:] + ids[:150])))


# Relationships


@pytest.fixture
async def library(books: Books, authors: Authors) -> None:
    writers = await authors.bulk_create([{"name": f"author {place}"} for place in range(20)])
    await books.bulk_create([{"title": f"book {place}", "author_id": writers[place % 20].id} for place in range(60)])
    books.session.expunge_all()


@pytest.mark.usefixtures("library")
async def test_relationships_are_loaded_with_one_more_statement_however_many_rows(
    authors: Authors, statements: list[str]
) -> None:
    statements.clear()

    rows, _ = await authors.list(pagination=PaginationParams(size=20), load_relationships=True)

    assert [len(author.books) for author in rows] == [3] * 20
    assert len(statements) == 3, statements  # the total, the page, and the books of all its authors


@pytest.mark.usefixtures("library")
async def test_every_reader_loads_relationships_when_asked(books: Books, authors: Authors) -> None:
    (some, *_), _ = await authors.list_with_pagination(PaginationParams(), {"name": "author 3"}, "name", True)
    assert len(some.books) == 3
    one = await books.get_by_id_or_raise(some.books[0].id, load_relationships=True)
    assert one.author is some
    assert (await books.get_by_field("title", "book 5", load_relationships=["author"])).author.name == "author 5"  # type: ignore[union-attr]  # it has one
    assert all(book.author for book in await books.get_many([1, 2, 3], load_relationships=True))
    assert all(book.author for book in (await books.list_after(load_relationships=True)).items)
    assert [book.author is not None async for book in books.stream(load_relationships=True)] == [True] * 60


@pytest.mark.usefixtures("library")
async def test_a_relationship_that_was_not_asked_for_raises_and_never_queries(
    books: Books, statements: list[str]
) -> None:
    rows, _ = await books.list()
    statements.clear()

    with pytest.raises(InvalidRequestError, match=r"Book\.author"):
        _ = rows[0].author
    assert statements == []


async def test_an_unknown_relationship_is_an_error_that_names_those_there_are(books: Books) -> None:
    with pytest.raises(InvalidFilterError, match="no relationship 'publisher'; there are author"):
        await books.list(load_relationships=["publisher"])


# Filters, against the database


@pytest.mark.parametrize(
    ("asked", "titles"),
    [
        ({"pages": 20}, "b"),
        ({"pages": [10, 30]}, "ac"),
        ({"pages": {"ne": 20}}, "acd"),
        ({"pages": {"lt": 20}}, "a"),
        ({"pages": {"le": 20}}, "ab"),
        ({"pages": {"gt": 20, "lt": 40}}, "c"),
        ({"pages": {"ge": 30}}, "cd"),
        ({"pages": {"between": [20, 30]}}, "bc"),
        ({"pages": {"in": []}}, ""),
        ({"price": None}, "cd"),
        ({"price": {"ne": None}}, "ab"),
        ({"price": {"ne": 1}}, "bcd"),
        ({"price": {"is_null": False}}, "ab"),
        ({"price": {"in": [None, Decimal("1.00")]}}, "acd"),
        ({"price": {"lt": 1.75}}, "a"),
        ({"title": {"ilike": "A%"}}, "a"),
        ({"title": {"ilike": "_"}}, "abcd"),
        ({"metadata": {"contains": {"colour": "red"}}}, "ab"),
        ({"metadata": {"contains": {"nested": {"x": 1}}}}, "b"),
        ({"metadata": {"eq": {}}}, "d"),
        ({"genres": {"contains": ["crime"]}}, "bc"),
        ({"genres": ["crime"]}, "c"),
        ({"printed_at": {"gt": "2025-01-01T00:00:00+00:00"}}, "b"),
        ({"pages": {"ge": 20}, "price": {"is_null": True}}, "cd"),
        ({}, "abcd"),
    ],
)
async def test_a_filter_finds_what_it_says(books: Books, asked: dict[str, Any], titles: str) -> None:
    printed = datetime(2025, 1, 1, tzinfo=UTC)
    await books.bulk_create(
        [
            {"title": "a", "pages": 10, "price": 1, "metadata": {"colour": "red"}, "printed_at": printed},
            {
                "title": "b",
                "pages": 20,
                "price": 2,
                "metadata": {"colour": "red", "nested": {"x": 1, "y": 2}},
                "genres": ["crime", "love"],
                "printed_at": printed + timedelta(microseconds=1),
            },
            {"title": "c", "pages": 30, "metadata": {"colour": "blue"}, "genres": ["crime"]},
            {"title": "d", "pages": 40},
        ]
    )

    rows, total = await books.list(asked, "title")

    assert "".join(row.title for row in rows) == titles
    assert total == await books.count(asked) == len(titles)


@pytest.mark.parametrize("wanted", [JobStatus.PROCESSING, "processing", ["processing"], {"ne": "queued"}])
async def test_a_filter_by_status_takes_the_enum_and_its_text(jobs: JobRepository, wanted: object) -> None:
    (queued,), (running,) = await queued_jobs(jobs), await running_jobs(jobs)

    rows, _ = await jobs.list({"status": wanted, "id": [queued.id, running.id]})

    assert [row.id for row in rows] == [running.id]


# Pages


async def test_a_page_by_number_comes_with_the_total(books: Books) -> None:
    await shelf(books, *range(45))

    rows, total = await books.list(order_by="-pages", pagination=PaginationParams(page=3, size=20))

    assert ([row.pages for row in rows], total) == ([4, 3, 2, 1, 0], 45)
    assert await books.list_with_pagination(PaginationParams(page=4)) == ([], 45)


@pytest.mark.parametrize(
    ("order", "message"),
    [("colour", "no such column"), ("metadata", "no order"), ("id," * 6 + "id", "at most 5"), ("pages,", "no such")],
)
async def test_an_order_that_cannot_be_is_an_error(books: Books, order: str, message: str) -> None:
    with pytest.raises(InvalidFilterError, match=message):
        await books.list(order_by=order)
    with pytest.raises(InvalidFilterError, match=message):
        await books.list_after(order_by=order)


async def all_pages(books: Books, size: int, order: str | None) -> list[int]:
    seen: list[int] = []
    page = await books.list_after(None, size, order_by=order)
    while page.next_cursor is not None and len(seen) < 100:  # pages that never end are a failure, not a hang
        seen += [book.id for book in page.items]
        page = await books.list_after(page.next_cursor, size, order_by=order)
    return seen + [book.id for book in page.items]


async def test_rows_inserted_or_deleted_meanwhile_neither_repeat_nor_hide_others(books: Books) -> None:
    await shelf(books, *range(0, 100, 10))
    first = await books.list_after(size=5, order_by="-pages")
    await books.bulk_create([{"title": "before", "pages": 95}, {"title": "after", "pages": 35}])
    await books.delete(first.items[-1].id)

    second = await books.list_after(first.next_cursor, 20, order_by="-pages")

    assert [book.pages for book in second.items] == [40, 35, 30, 20, 10, 0]
    assert second.next_cursor is None


async def test_a_page_by_cursor_is_one_statement_and_the_last_has_no_successor(
    books: Books, statements: list[str]
) -> None:
    await shelf(books, *range(10))
    statements.clear()

    page = await books.list_after(None, 10)

    assert (len(page.items), page.next_cursor, len(statements)) == (10, None, 1)


@pytest.mark.parametrize("broken", ["", "x", "%%%", "bnVsbA", "W10", "x" * 9_000, "é"])
async def test_a_text_that_is_no_cursor_is_a_clear_error(books: Books, broken: str) -> None:
    with pytest.raises(InvalidCursorError, match="begin again without one"):
        await books.list_after(broken)


async def test_a_cursor_serves_its_own_list_and_order_only(books: Books, authors: Authors) -> None:
    await shelf(books, 1, 2)
    cursor = (await books.list_after(size=1, order_by="pages")).next_cursor
    for call in (
        books.list_after(cursor),
        books.list_after(cursor, order_by="-pages"),
        authors.list_after(cursor),
    ):
        with pytest.raises(InvalidCursorError, match="of another list or order"):
            await call


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken=st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.hex()))
def test_no_text_whatever_breaks_the_reading_of_a_cursor(broken: str) -> None:
    from repositories.cursors import read_cursor  # noqa: PLC0415 - only this test reads one without a database

    with pytest.raises(InvalidCursorError):
        read_cursor(Book, Books(Book, None)._order(None), broken)  # type: ignore[arg-type]  # no session is needed


@pytest.mark.parametrize("size", [0, -1, 1_001])
async def test_sizes_of_pages_and_batches_are_bounded(books: Books, size: int) -> None:
    with pytest.raises(InvalidValueError, match="1 to 1000"):
        await books.list_after(size=size)
    with pytest.raises(InvalidValueError, match="1 to 1000"):
        [book async for book in books.stream(batch=size)]


async def test_a_stream_is_read_from_a_cursor_of_the_server(books: Books) -> None:
    await shelf(books, *range(2_500))
    open_cursors = text("SELECT count(*) FROM pg_cursors WHERE statement LIKE 'SELECT books%'")
    seen = 0

    async with aclosing(books.stream({"pages": {"ge": 500}}, "-pages", batch=100)) as rows:
        async for book in rows:
            assert book.pages == 2_499 - seen
            seen += 1
            if seen == 150:
                assert await books.session.scalar(open_cursors) == 1
    assert seen == 2_000


@pytest.mark.usefixtures("library")
async def test_a_stream_loads_relationships_once_a_batch(books: Books, statements: list[str]) -> None:
    statements.clear()

    seen = [book.author is not None async for book in books.stream(batch=20, load_relationships=True)]

    assert seen == [True] * 60
    assert len(statements) == 1 + 60 // 20, statements


async def test_a_stream_may_be_left_early(books: Books) -> None:
    await shelf(books, *range(50))
    async with aclosing(books.stream(batch=10)) as rows:
        async for book in rows:
            assert book.pages == 0
            break
    assert await books.count() == 50


ORDERS = [
    "pages",
    "-pages",
    "price,-pages",
    "-price",
    "weight",
    "-printed_at,title",
    "title",
    "-price,weight,-id",
    None,
]

ROW = st.fixed_dictionaries(
    {
        "pages": st.integers(0, 3),
        "price": st.none() | st.decimals(0, 2, places=2),
        "weight": st.none() | st.floats(width=32, allow_nan=True),
        "printed_at": st.none() | st.datetimes(datetime(2025, 1, 1), datetime(2025, 1, 2), timezones=st.just(UTC)),  # noqa: DTZ001 - the strategy adds the zone
        "title": st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=4),
    }
)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.slow
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    # Explaining a failure traces every line of the database driver: minutes and gigabytes.
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
@given(
    rows=st.lists(ROW, max_size=12, unique_by=lambda row: row["title"]),
    late=st.lists(ROW, max_size=4, unique_by=lambda row: row["title"]),
    size=st.integers(1, 5),
    order=st.sampled_from(ORDERS),
)
def test_pages_by_cursor_are_the_whole_list_in_order_whatever_is_inserted_between(
    runner: asyncio.Runner,
    shared_url: str,
    rows: list[dict[str, Any]],
    late: list[dict[str, Any]],
    size: int,
    order: str | None,
) -> None:
    async def check() -> None:
        async with DatabaseManager(shared_url, pool_size=1) as manager, manager.get_session() as session:
            connection = await session.connection()
            await connection.run_sync(Library.metadata.create_all)
            books = Books(Book, session)
            old = {book.id for book in await books.bulk_create(rows)}
            whole, _ = await books.list(order_by=order, pagination=PaginationParams(size=100))
            assert await all_pages(books, size, order) == [book.id for book in whole]

            waiting = [row | {"title": f"late {place}"} for place, row in enumerate(late)]
            seen: list[int] = []
            page = await books.list_after(None, size, order_by=order)
            while page.next_cursor is not None and len(seen) < 100:
                seen += [book.id for book in page.items]
                if waiting:
                    await books.create(waiting.pop())
                page = await books.list_after(page.next_cursor, size, order_by=order)
            seen += [book.id for book in page.items]
            assert [id_ for id_ in seen if id_ in old] == [book.id for book in whole]
            assert len(seen) == len(set(seen)), "no row is shown twice"
            await session.rollback()

    runner.run(check())


# What the inherited writers may do to a job


async def test_a_jobs_edit_is_written_counted_and_returned(jobs: JobRepository) -> None:
    (job,) = await queued_jobs(jobs)

    after = await jobs.update(
        str(job.id), {"metadata": {"a": 1}, "priority": 2, "workspace_id": None}, timeout_seconds=60, version=1
    )

    assert (after.job_metadata, after.priority, after.timeout_seconds) == ({"a": 1}, 2, 60)
    assert (after.status, after.version) == (JobStatus.QUEUED, 2)
    with pytest.raises(StaleUpdateError, match="version 1 was expected and 2 found"):
        await jobs.update(job.id, {"priority": 3}, version=1)
    assert await jobs.update_many({"id": job.id}, {"max_attempts": 7}) == 1
    assert await jobs.bulk_update([{"id": job.id, "max_crashes": 8}]) == 1
    assert (job.max_attempts, job.max_crashes, job.version) == (7, 8, 4)


@pytest.mark.parametrize("field", sorted({*Job.__table__.columns.keys(), "error"} - {*JobEdit.model_fields}))
async def test_no_inherited_writer_moves_what_the_state_machine_moves(jobs: JobRepository, field: str) -> None:
    (job,) = await queued_jobs(jobs)
    before = job.dict()
    naming = {"workspace_id": "w"} if field == "id" else {"id": job.id}

    writes = [
        jobs.update(job.id, {field: "completed"}),
        jobs.update_many({"id": job.id}, {field: 1}),
        jobs.bulk_update([naming | {field: 1}], *naming),
    ]
    for write in writes:
        with pytest.raises(ProtectedFieldError) as caught:
            await write
        assert caught.value.field == field
        assert caught.value.instead in str(caught.value)

    assert (await jobs.get_by_id_or_raise(job.id)).dict() == before


async def test_a_refused_status_names_the_method_to_use(jobs: JobRepository) -> None:
    (job,) = await queued_jobs(jobs)

    with pytest.raises(ProtectedFieldError, match="status of a job is not edited; instead: update_job_status"):
        await jobs.update(job.id, JobUpdate(status=JobStatus.COMPLETED))


@pytest.mark.parametrize(
    ("field", "value"),
    [("priority", 10), ("priority", "5"), ("max_attempts", 0), ("timeout_seconds", 0), ("workspace_id", "")],
)
async def test_an_edit_out_of_range_is_refused_by_its_name(jobs: JobRepository, field: str, value: object) -> None:
    (job,) = await queued_jobs(jobs)
    with pytest.raises(InvalidValueError) as caught:
        await jobs.update(job.id, {field: value})
    assert caught.value.field == field


async def test_new_jobs_begin_where_their_payload_and_parents_say(jobs: JobRepository) -> None:
    mine = await jobs.create(JobCreate(type="document_upload", metadata={"a": 1}))
    parent, child = await jobs.bulk_create(
        [first := new_job(), {"type": "document_upload", "payload": {}, "depends_on": [first.id]}], priority=2
    )

    assert (mine.status, mine.job_metadata) == (JobStatus.PENDING, {"a": 1})
    assert (parent.id, parent.status, parent.has_dependents) == (first.id, JobStatus.QUEUED, True)
    assert (child.status, child.priority) == (JobStatus.PENDING, 2)
    for field in ("status", "attempt", "version", "completed_at"):
        with pytest.raises(ProtectedFieldError, match=field):
            await jobs.create({"type": "document_upload", field: 1})
    with pytest.raises(InvalidValueError, match="colour"):
        await jobs.create({"type": "document_upload", "colour": "red"})


@pytest.mark.parametrize("status", JobStatus)
async def test_a_job_is_deleted_in_every_state_but_processing(jobs: JobRepository, status: JobStatus) -> None:
    job = await job_in(jobs, status)
    if status is not JobStatus.PROCESSING:
        assert await jobs.delete(job.id)
        assert not await jobs.exists(job.id)
        return
    with pytest.raises(InUseError, match="it is processing; cancel_job it") as caught:
        await jobs.delete(job.id)
    assert caught.value.id == job.id
    assert await jobs.exists(job.id)


async def test_one_job_in_use_keeps_the_whole_batch(jobs: JobRepository) -> None:
    queued, (running,) = await queued_jobs(jobs, 3), await running_jobs(jobs)
    ids = [job.id for job in queued] + [running.id]

    for call in (jobs.bulk_delete(ids), jobs.delete_many({"id": ids})):
        with pytest.raises(InUseError, match=str(running.id)):
            await call
    assert len(await jobs.get_many(ids)) == 4
    assert await jobs.bulk_delete(ids[:3]) == 3


async def test_a_job_that_others_wait_for_is_not_deleted(jobs: JobRepository) -> None:
    parent = new_job()
    await jobs.create_many([parent, NewJob(type="document_upload", payload={}, depends_on=[parent.id])])

    with pytest.raises(InUseError, match="other jobs wait for it"):
        await jobs.delete(parent.id)


async def test_a_job_that_is_claimed_while_its_deletion_waits_is_not_deleted(database: DatabaseManager) -> None:
    async with database.get_transaction() as session:
        (job,) = await queued_jobs(JobRepository(session))

    async def remove() -> bool:
        async with database.get_transaction() as session:
            return await JobRepository(session).delete(job.id)

    async with database.get_session() as worker:
        await JobRepository(worker).claim([job.id], "worker-1", LEASE)
        deletion = asyncio.create_task(remove())
        async with database.get_session() as watcher:
            blocked = text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%DELETE%'"
            )
            while not await watcher.scalar(blocked):  # bounded by the test's timeout
                await watcher.rollback()
        await worker.commit()
    with pytest.raises(InUseError, match="it is processing"):
        await deletion
