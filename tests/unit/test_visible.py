"""Names from outside on terminals and in spreadsheets."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.console import PlainConsole, Rows
from worker.visible import block, cell, one_line

HOSTILE = "a\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\x7f\r\b\u202egpj\u2066[red]\n:smile: forged\udcff"
OBEYED = {chr(code) for code in [*range(32), *range(127, 160)]} - {"\n"} | {"\u202e", "\u2066", "\udcff"}


def test_what_a_terminal_obeys_is_spelled_out() -> None:
    assert not OBEYED & set(one_line(HOSTILE))
    assert "\n" not in one_line(HOSTILE)
    assert json.loads(f'"{one_line(HOSTILE)}"') == HOSTILE
    assert block("a\r\n\tb\x1b") == "a\r\n\tb\\u001b"
    assert one_line("Grüße 👩‍🔬 देवनागरी.pdf") == "Grüße 👩‍🔬 देवनागरी.pdf"


@given(st.text())
def test_no_text_reaches_a_line_unprintable(text: str) -> None:
    assert not OBEYED & set(one_line(text))
    assert one_line(one_line(text)) == one_line(text)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_prints_no_name_as_a_command(*, terminal: bool) -> None:
    stream = io.StringIO()
    console = PlainConsole(file=stream, force_terminal=terminal, no_color=True, width=400)
    table = Rows(box=None)
    table.add_column("name")
    table.add_row(HOSTILE)

    console.print(table)
    console.print(f"the file {HOSTILE}", highlight=False)
    console.out(json.dumps({"name": HOSTILE}), highlight=False)
    console.out(json.dumps({"name": HOSTILE.removesuffix("\udcff")}, ensure_ascii=False), highlight=False)

    shown = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())  # the styles of the table's head
    assert not OBEYED & set(shown)
    assert shown.count("[red]") == 4
    assert ":smile:" in shown
    lines = shown.splitlines()
    assert json.loads(lines[-2])["name"] == HOSTILE
    assert json.loads(lines[-1])["name"] + "\udcff" == HOSTILE


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
@pytest.mark.parametrize("before", ["", " ", "\ufeff", "\u200b", "\xa0", "\u3000", "\n", "\x00", "\u2060 \t"])
def test_every_beginning_of_a_formula_is_guarded(start: str, before: str) -> None:
    assert cell(f"{before}{start}HYPERLINK(1)") == f"'{before}{start}HYPERLINK(1)"


@pytest.mark.parametrize("value", [-5, 0.25, None, "", "a=b", "5", " a", "'=1", "(-5)", "1-2", "\u200b"])
def test_what_is_no_formula_stays_as_it_is(value: object) -> None:
    assert cell(value) == value
