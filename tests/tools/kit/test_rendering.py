"""A report in each of its forms."""

from __future__ import annotations

import base64
import re

import pytest

from llava_vista.errors import MissingExtraError
from llava_vista.tools.kit.extras import requires_extra
from llava_vista.tools.kit.rendering import print_text, to_html, to_markdown, to_text
from llava_vista.tools.kit.report import NOTE, OK, PLAIN, WRONG, Figure, Heading, Line, Report, Table

pytestmark = pytest.mark.environments("latest")

TABLE = Table(("task", "value"), [("x|y", "1.00"), ("long name", "-10.00")])


def test_text_wraps_aligns_and_marks() -> None:
    report = Report([Heading("Title", 1), Line(PLAIN, "a sentence"), TABLE, Line(WRONG, "word " * 8)])
    assert to_text(report, width=30).splitlines() == [
        "Title",
        "  a sentence",
        "",
        "task        value",
        "-----------------",
        "x|y          1.00",
        "long name  -10.00",
        "",
        "  !!  word word word word word",
        "      word word word",
    ]


def test_labels_of_a_section_are_aligned_and_an_empty_section_is_left_out() -> None:
    report = Report()
    environment = report.section("Environment")
    report.section("Nothing here")
    environment.ok("python", "3.11")
    environment.wrong("transformers", "is too old; install a newer one")
    environment.wrong("transformers", "is too old; install a newer one")  # the same line twice is one line
    environment.plain("x", "y")
    assert to_text(report) == (
        "Environment\n"
        "  ok  python        3.11\n"
        "  !!  transformers  is too old; install a newer one\n"
        "      x             y"
    )
    assert report.problems == environment.problems and len(report.problems) == 1
    assert "- **transformers**: **is too old; install a newer one**" in to_markdown(report)


def test_markdown_lists_paragraphs_and_tables() -> None:
    report = Report([Line(WRONG, "a < b"), TABLE, Line(NOTE, "one"), Line(OK, "two"), Line(PLAIN, "words"),
                     Line(PLAIN, "more"), Figure("curves", "left out")])  # fmt: skip
    assert to_markdown(report) == (
        "- **a < b**\n\n| task | value |\n| --- | ---: |\n| x/y | 1.00 |\n| long name | -10.00 |\n\n"
        "- one\n- two\n\nwords\n\nmore\n"
    )


def test_html_escapes_and_holds_its_figures() -> None:
    report = Report([Line(WRONG, "a < b"), TABLE, Figure("curves", 'of "both"'), Figure("missing", "no such figure")])
    page = to_html(report, {"curves": b"<svg/>"}, "A & B")
    assert "a &lt; b" in page and "<title>A &amp; B</title>" in page
    (image,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert base64.b64decode(image) == b"<svg/>" and "no such figure" not in page
    assert page.count("<td") == 4 and '<td class="word">long name</td><td>-10.00</td>' in page


def test_a_missing_module_names_its_extra() -> None:
    message = r"no_such_module .* pip install 'llava-vista\[plots\]'"
    with pytest.raises(MissingExtraError, match=message), requires_extra("plots"):
        import no_such_module  # noqa: F401


def test_marks_are_coloured_on_a_terminal_only(capsys, monkeypatch) -> None:
    report = Report([Line(OK, "one  !!  two"), Line(WRONG, "three")])
    print_text(to_text(report))
    assert capsys.readouterr().out == "  ok  one  !!  two\n  !!  three\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_text(to_text(report))
    assert capsys.readouterr().out == "\033[32m  ok  \033[0mone  !!  two\n\033[31;1m  !!  \033[0mthree\n"
    monkeypatch.setenv("NO_COLOR", "1")
    print_text(to_text(report))
    assert "\033" not in capsys.readouterr().out
