"""Pages: what templates escape, Markdown as one HTML file, pictures that are the same for the same
values.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError

import sidar
from sidar.pages import Interval, Line, bars_around_zero, html_page, intervals, lines, render
from sidar.pages.environment import environment, read_template

TABLE = "| | a\\|b |\n|---|---:|\n| row<x> | **holds** |\n| other | 1.0 *0–2* |\n"


def chart(alt="Recall by width <of> the beam"):
    series = [
        Line("one & two", [1, 10], [0.25, 0.5]),
        Line("dashed", [1, 10], [0.1, 0.2], colour=12),
    ]
    return lines("beams", alt, series, x_label="beam", y_label="R@100", x_ticks=[1, 10], log_x=True)


def test_html_is_escaped_markdown_is_not_and_a_missing_name_is_an_error():
    templates = environment()
    assert templates.from_string("{{ x }}").render(x="<b>") == "<b>"
    assert "<h1>a &lt;b&gt;</h1>" in render(
        "pages/document.html", title="a <b>", lead="", sections=[], footer=""
    )
    with pytest.raises(UndefinedError, match="missing"):
        templates.from_string("{{ missing }}").render()
    assert templates.filters["cell"]("a|b") == "a\\|b"


def test_the_templates_are_part_of_the_package():
    for name in ("pages/base.html", "pages/style.css", "pages/palette.css", "compare/page.md"):
        assert read_template(name)
    assert read_template("pages/none.html") is None


def test_markdown_becomes_one_file_with_sections_and_inline_pictures():
    text = (
        "# T<\n\nlead **bold** <i>raw</i>\n\n## 1. S & "
        f"more\n\n{TABLE}\n![x](images/beams.svg)\n\nend\n"
    )
    page = html_page(text, [chart()], footer="Written by me.")
    assert "<h1>T&lt;</h1>" in page
    assert "<strong>bold</strong> &lt;i&gt;raw&lt;/i&gt;" in page
    assert '<a href="#1-s-more">1. S &amp; more</a>' in page
    assert '<section id="1-s-more">' in page
    assert '<strong class="mark holds">holds</strong>' in page
    assert "<td>row&lt;x&gt;</td>" in page
    assert "<em>0–2</em>" in page
    assert page.count("<svg ") == 1
    assert "<p><figure>" not in page
    assert "do not edit" not in html_page(f"<!-- do not edit. -->\n{text}", [chart()], footer="")
    assert "http" not in page


def test_a_page_may_have_no_section():
    assert "<p>lead</p>" in html_page("# T\n\nlead\n", [], footer="")


def test_a_picture_is_the_same_twice_and_describes_itself():
    picture = chart()
    assert picture.svg == chart().svg
    root = ElementTree.fromstring(picture.standalone())
    assert root.get("role") == "img"
    assert root.get("aria-label") == "Recall by width <of> the beam"
    assert root[0].tag.endswith("title")
    assert root[0].text == "Recall by width <of> the beam"
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"one & two", "dashed", "beam", "R@100", "1", "10"} <= set(words)


def test_points_that_are_not_numbers_are_left_out():
    picture = lines("x", "x", [Line("<x>", [1, 2], [float("nan"), 0.5])], x_label="k", y_label="r")
    assert "nan" not in picture.svg
    assert "<x>" not in picture.svg


def test_colours_follow_the_page_and_ids_belong_to_the_picture():
    picture = chart()
    assert "stroke: var(--c0)" in picture.svg
    # the twelfth is the second, dashed
    assert re.search(r"stroke-dasharray: [^\"]*stroke: var\(--c2\)", picture.svg)
    assert not re.search(r"#(?!beams-)[0-9a-f]{6}", picture.svg)
    assert set(re.findall(r' id="(beams-)?', picture.svg)) == {"beams-"}
    assert "<style>" not in picture.svg
    assert ":root" in picture.standalone()
    assert "http" not in picture.svg


def test_means_stand_beside_their_intervals_and_shares_on_both_sides():
    picture = intervals(
        "means",
        "Means",
        [Interval("a", 0.25, 0.2, 0.3), Interval("b", 0.5, 0.4, 0.6, 1)],
        label="nDCG",
    )
    for word in (">0.250<", ">0.500<", ">a<", ">b<", ">nDCG<"):
        assert word in picture.svg
    bars = bars_around_zero("codes", "Codes", [0.6, 0.4], [0.9, 0.1], labels=("items", "clicks"))
    assert "var(--c0)" in bars.svg
    assert "var(--c1)" in bars.svg
    assert ">clicks<" in bars.svg


def test_no_figure_searches_for_the_place_of_its_legend():
    """Matplotlib's search warns when it takes a second, which depends on how busy
    the machine is.
    """
    calls = [
        call
        for file in Path(sidar.__file__).parent.rglob("*.py")
        for call in re.findall(r"\.legend\(([^)]*)\)", file.read_text(encoding="utf-8"))
    ]
    assert len(calls) >= 5
    assert all("loc=" in call for call in calls)
