"""Which links and addresses are refused, which names a fetched document may get, and which patterns fit which paths."""

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sources import Globs, GlobsError, SourceError
from worker.sources.addresses import refusal
from worker.sources.errors import shown
from worker.sources.names import name_of
from worker.sources.targets import target

INSIDE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001:829::200e"]


@pytest.mark.parametrize("address", [*INSIDE, "168.63.129.16", "203.0.113.9", "192.88.99.1", "250.1.1.1"])
def test_an_ipv4_address_that_is_not_public_is_refused(address: str) -> None:
    assert refusal(ip_address(address), ()) is not None


@pytest.mark.parametrize(
    "address",
    [
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1111%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "100::1",
        "2001::1",  # Teredo
        "2001:db8::1",
        "2002:0101:0101::1",  # 6to4, whatever is inside
        "3fff::1",
        "4000::1",
        "64:ff9b:1::a00:1",
        "2606:4700::5efe:a00:1",  # ISATAP
    ],
)
def test_an_ipv6_address_that_is_not_public_is_refused(address: str) -> None:
    assert refusal(ip_address(address), ()) is not None


@pytest.mark.parametrize("inner", INSIDE)
@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::", "::", "2002:"])
def test_an_inside_address_within_an_ipv6_one_is_refused(prefix: str, inner: str) -> None:
    number = int(IPv4Address(inner))
    text = f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1" if prefix == "2002:" else f"{prefix}{inner}"

    assert refusal(ip_address(text), ()) is not None


@pytest.mark.parametrize("address", [*PUBLIC, "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_a_public_address_may_be_reached(address: str) -> None:
    assert refusal(ip_address(address), ()) is None


@given(st.ip_addresses())
def test_at_least_what_python_calls_special_is_refused(address: IPv4Address | IPv6Address) -> None:
    special = not address.is_global or address.is_multicast or address.is_reserved or address.is_unspecified
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped is not None
    # NAT64 is "reserved" to Python; DNS64 gives such addresses for public hosts.
    if special and not mapped and address not in ip_network("64:ff9b::/96"):
        assert refusal(address, ()) is not None


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_judged_like_the_one_inside(address: IPv4Address) -> None:
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        outer = IPv6Address(int(IPv6Address(prefix)) + int(address))
        assert refusal(outer, ()) == refusal(address, ())


def test_an_allowed_network_may_be_reached_and_no_other() -> None:
    allowed = [ip_network("10.1.0.0/16"), ip_network("fd12::/16")]

    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd12::5"):
        assert refusal(ip_address(address), allowed) is None
    for address in ("10.2.0.1", "127.0.0.1", "fd13::5"):
        assert refusal(ip_address(address), allowed) is not None


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254"])
def test_a_metadata_service_is_refused_whatever_is_allowed(address: str) -> None:
    everything = [ip_network("0.0.0.0/0"), ip_network("::/0")]

    assert refusal(ip_address(address), everything) == "a cloud's metadata service"


@pytest.mark.parametrize(
    "link",
    [
        "http://example.com/",
        "https://example.com/a.pdf?token=x#part",
        "https://example.com:8443/",
        "http://example.com:80/",
        "https://1.2.3.4/x",
        "https://[2606:4700::1111]/x",
        "https://bücher.example/x",
        "https://3com.com/x",
    ],
)
def test_a_plain_link_is_followed(link: str) -> None:
    assert target(link).fragment == ""


@pytest.mark.parametrize(
    ("link", "code"),
    [
        ("ftp://example.com/x", "link_forbidden"),
        ("file:///etc/passwd", "link_forbidden"),
        ("gopher://example.com/", "link_forbidden"),
        ("//example.com/x", "link_forbidden"),
        ("example.com/x", "link_forbidden"),
        ("https://user:password@example.com/", "link_forbidden"),
        ("https://user@example.com/", "link_forbidden"),
        ("https://example.com:22/", "link_forbidden"),
        ("https://example.com:0/", "link_forbidden"),
        ("http://2130706433/", "link_forbidden"),
        ("http://0x7f000001/", "link_forbidden"),
        ("http://0x7f.0.0.1/", "link_forbidden"),
        ("http://0177.0.0.1/", "link_invalid"),
        ("http://127.1/", "link_forbidden"),
        ("http://127.0.0.1.5/", "link_forbidden"),
        ("http://017700000001./", "link_forbidden"),
        ("http://example.0x10/", "link_forbidden"),
        ("", "link_forbidden"),
        ("https://", "link_invalid"),
        ("https:///etc", "link_invalid"),
        ("https://exa mple.com/", "link_invalid"),
        ("https://example.com/\r\nHost: x", "link_invalid"),
        ("https://example.com/\x00", "link_invalid"),
        ("https://exam%70le.com/", "link_invalid"),
        ("https://[::1/", "link_invalid"),
        ("https://[fe80::1%25eth0]/", "link_invalid"),
        ("https://example.com:port/", "link_invalid"),
        ("https://example.com/" + "a" * 2_048, "link_invalid"),
    ],
)
def test_an_odd_link_is_refused(link: str, code: str) -> None:
    with pytest.raises(SourceError) as raised:
        target(link)

    assert raised.value.code == code
    assert not raised.value.transient
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("host", ["127。0。0。1", "①②⑦.0.0.1", "１２７.0.0.1"])  # noqa: RUF001 - look-alikes are the point
def test_a_host_of_look_alike_digits_is_refused_or_read_as_digits(host: str) -> None:
    try:
        url = target(f"http://{host}/")
    except SourceError:
        return
    assert url.host == "127.0.0.1"  # which the address check refuses


@given(
    st.text(max_size=60), st.sampled_from(["", "http://", "https://", "https://a.example/", "http://[", "https://x@"])
)
def test_any_text_is_a_checked_url_or_a_refusal(text: str, before: str) -> None:
    with suppress(SourceError):
        url = target(before + text)
        assert url.scheme in {"http", "https"}
        assert url.host
        assert not url.userinfo


def test_messages_show_no_secrets_of_a_url() -> None:
    url = "https://user:hunter2@example.com/a%20b.pdf?sig=hunter2#hunter2"

    assert shown(url) == "https://example.com/a%20b.pdf?…"
    assert shown("http://host:hunter2/") == "the link"
    assert len(shown("https://example.com/" + "x" * 1_000)) == 200


@pytest.mark.parametrize(
    ("path", "disposition", "kind", "name"),
    [
        ("/manuals/kestrel.pdf", None, "application/pdf", "kestrel.pdf"),
        ("/manuals/kestrel%20pump.pdf", None, None, "kestrel pump.pdf"),
        ("/report", None, "application/pdf", "report.pdf"),
        ("/report-v1.2", None, "text/html; charset=utf-8", "report-v1.2.html"),
        ("/page.php", None, "text/html", "page.php.html"),
        ("/page.php", None, None, "page.php"),
        ("/notes.md", None, "text/plain", "notes.md"),
        ("/", None, "text/html", "docs.example.html"),
        ("/", None, None, "docs.example"),
        ("/x", None, "application/octet-stream", "x"),
        ("/x", 'attachment; filename="price list.xlsx"', None, "price list.xlsx"),
        ("/x", "attachment; filename=plain.txt", None, "plain.txt"),
        ("/x", "attachment; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.pdf", None, "naïve €.pdf"),
        ("/x", "attachment; filename=\"euro.pdf\"; filename*=UTF-8''%E2%82%AC.pdf", None, "€.pdf"),
        ("/x", "attachment; filename*=UTF-8''%E2%82%AC.pdf; filename=\"euro.pdf\"", None, "€.pdf"),
        ("/x", "attachment; filename*=latin-9''%A4.pdf", "text/plain", "¤.pdf"),
        ("/x", 'attachment; filename="../../etc/passwd"', "text/plain", "passwd.txt"),
        ("/x", 'attachment; filename="C:\\\\windows\\\\a.txt"', None, "a.txt"),
        ("/x", "attachment; filename*=UTF-8''..%2F..%2Fa.txt", None, "a.txt"),
        ("/x", "attachment; filename*=UTF-8''a%00%0D%0Ab.txt", None, "a b.txt"),
        ("/x", "attachment; filename*=UTF-8''fdp%E2%80%AEtxt.exe", None, "fdptxt.exe"),
        ("/x.txt", "attachment", None, "x.txt"),
        ("/x.txt", 'attachment; filename=""', None, "x.txt"),
        ("/x.txt", 'attachment; filename="..."', None, "x.txt"),
        ("/..%2f..%2fetc%2fpasswd", None, None, "passwd"),
        ("/a;b=c/%2e%2e", None, "text/plain", "docs.example.txt"),
    ],
)
def test_a_document_is_named_by_its_server_or_its_link(
    path: str, disposition: str | None, kind: str | None, name: str
) -> None:
    assert name_of(httpx.URL(f"https://docs.example{path}"), disposition, kind) == name


@given(st.text(max_size=400), st.one_of(st.none(), st.text(max_size=400)), st.one_of(st.none(), st.text(max_size=40)))
def test_a_name_is_always_one_short_printable_part_of_a_path(
    path: str, disposition: str | None, kind: str | None
) -> None:
    url = httpx.URL("https://docs.example/" + quote(path, safe="/", errors="replace"))

    name = name_of(url, disposition and f"attachment; filename={disposition}", kind)

    assert name.isprintable()
    assert not {"/", "\\"} & set(name)
    assert name not in {"", ".", ".."}
    assert len(name.encode()) <= 200


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("*.pdf", ["a.pdf", "x/a.pdf", "x/y/a.pdf", "x.pdf/a"], ["a.pdfx", "a.PDF", "pdf"]),
        ("manuals/*.pdf", ["manuals/a.pdf"], ["manuals/x/a.pdf", "x/manuals/a.pdf"]),
        ("/a.pdf", ["a.pdf"], ["x/a.pdf"]),
        ("manuals", ["manuals/a", "x/manuals/b/c"], ["manuals2/a"]),
        ("manuals/", ["manuals/a", "x/manuals/b/c"], ["manuals2/a"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b/a/c"]),
        ("**/b", ["b", "a/b", "a/c/b", "a/b/x"], ["a/bc"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/x", "x/a/b"]),
        ("**", ["a", "a/b"], []),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("[!a-c]x", ["dx"], ["ax", "/x"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a/*/b/**/*.md", ["a/x/b/c.md", "a/x/b/y/z/c.md"], ["a/b/c.md", "a/x/y/b/c.md"]),
    ],
)
def test_a_pattern_reads_like_one_of_gitignore(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    globs = Globs(include=[pattern])

    assert [path for path in fits if not globs.matches(path)] == []
    assert [path for path in fits_not if globs.matches(path)] == []


def test_excluded_paths_are_left_out_of_the_included_ones() -> None:
    globs = Globs(include=["*.pdf", "*.md"], exclude=["drafts", "*.tmp.pdf"])

    assert globs.matches("manuals/a.pdf")
    assert not globs.matches("drafts/a.pdf")
    assert not globs.matches("manuals/a.tmp.pdf")
    assert not globs.matches("manuals/a.txt")
    assert Globs().matches("anything")


@pytest.mark.parametrize("pattern", ["", "/", "!a", "../a", "a/./b", "a//b", "x" * 501, "**/a/" * 11])
def test_a_pattern_that_means_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(GlobsError):
        Globs(include=[pattern])
    with pytest.raises(GlobsError):
        Globs(exclude=[pattern])


@pytest.mark.timeout(5)
def test_a_pattern_made_to_backtrack_ends_soon() -> None:
    globs = Globs(include=["*a" * 200 + "b", "**/a/" * 10 + "b"])

    assert not globs.matches("a" * 4_000)
    assert not globs.matches("/".join("a" * 1_000))
