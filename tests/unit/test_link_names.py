"""What the document behind a link is called before it is fetched."""

import pytest

from worker.sources.names import name_of_link


@pytest.mark.parametrize("link", ["https://example.org/a.pdf", "https://example.org/a%20b.pdf#page=3"])
def test_a_link_without_secrets_is_the_name(link: str) -> None:
    assert name_of_link(link) == link.partition("#")[0]


def test_links_that_are_shown_alike_have_names_of_their_own() -> None:
    long = "https://example.org/" + "x" * 300
    links = [
        "https://example.org/get?id=1",
        "https://example.org/get?id=2",
        "https://example.org/get?id=1&page=2",
        f"{long}/a.pdf",
        f"{long}/b.pdf",
    ]

    names = {name_of_link(link) for link in links}

    assert len(names) == len(links)
    assert names == {name_of_link(link) for link in reversed(links)}
    assert not [name for name in names if "id=" in name or len(name) > 210]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("X-Amz-Date=1&X-Amz-Signature=aa", "X-Amz-Date=2&X-Amz-Signature=bb"),
        ("X-Goog-Expires=60&X-Goog-Signature=aa", "X-Goog-Expires=90&X-Goog-Signature=bb"),
        ("Expires=1&Signature=aa&Key-Pair-Id=K", "Expires=2&Signature=bb&Key-Pair-Id=K"),
        ("sv=1&se=2&sr=b&sp=r&sig=aa", "sv=1&se=3&sr=b&sp=r&sig=bb"),
    ],
)
def test_a_link_that_is_signed_anew_keeps_its_name(first: str, second: str) -> None:
    link = "https://bucket.example.org/a.pdf"

    assert name_of_link(f"{link}?{first}") == name_of_link(f"{link}?{second}") == f"{link}?…"
    assert name_of_link(f"{link}?versionId=1&{first}") != name_of_link(f"{link}?versionId=2&{second}")


def test_the_order_of_a_query_makes_no_other_name_and_short_words_are_no_signature() -> None:
    assert name_of_link("https://example.org/x?a=1&b=2") == name_of_link("https://example.org/x?b=2&a=1")
    assert name_of_link("https://example.org/x?st=1") != name_of_link("https://example.org/x?st=2")
