"""The page of a comparison, made from ``results.json`` alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from sidar.artifacts import replace_file
from sidar.compare.paired import BETTER, BY_CLASS, CONTROLS, INVALID, PRIMARY, SECOND
from sidar.compare.results import Estimate, Results
from sidar.compare.verdict import caveats
from sidar.evaluate.slices import CLASSES
from sidar.evaluate.table import about, number
from sidar.pages import Interval, Picture, html_page, intervals, render

#: Columns of the tables of recall.
ITEMS = {PRIMARY: "nDCG@10", "item/recall@10": "R@10", SECOND: "R@100"}
CLASS_COLUMNS = dict(zip(BY_CLASS, (f"R@100 {name}" for name in CLASSES), strict=True))
COLUMNS = ITEMS | CLASS_COLUMNS | {INVALID: "invalid mass"}
BASELINES = ("dense", "bm25")
#: Significantly better or worse than the reference.
MARKS = {"holds": " ▲", "does not hold": " ▼", "cannot tell here": ""}


@dataclass(frozen=True)
class Page:
    """A page in Markdown with its pictures, which it links as ``images/<name>.svg``."""

    markdown: str
    pictures: list[Picture]

    def write_pictures(self, folder: Path) -> None:
        """Write the pictures into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for picture in self.pictures:
            replace_file(folder / f"{picture.name}.svg", picture.standalone())

    def html(self) -> str:
        """Return the same page as one HTML file."""
        return html_page(self.markdown, self.pictures, footer="Written by sidar compare-sids.")


def write_page(folder: Path, results: Results) -> None:
    """Write ``page.md``, ``page.html`` and ``images/`` into ``folder``."""
    page = make_page(results)
    page.write_pictures(folder / "images")
    replace_file(folder / "page.md", page.markdown)
    replace_file(folder / "page.html", page.html())


def make_page(
    results: Results, *, prefix: str = "", written_by: str = "sidar compare-sids", note: str = ""
) -> Page:
    """Return the page; ``prefix`` begins the names of its pictures, ``note`` ends its lead."""
    endpoint = [_endpoint(results, name, prefix) for name in results.sets]
    controls = [name for name, method in results.methods.items() if method.must_lose_to]
    markdown = render(
        "compare/page.md",
        results=results,
        written_by=written_by,
        note=note,
        caveats=caveats(results),
        endpoint=endpoint,
        tests=results.asked(BETTER, PRIMARY),
        names={PRIMARY: "nDCG@10", SECOND: "R@100"},
        number=number,
        signed=signed,
        estimate=estimate,
        recall={name: _recall(results, name) for name in results.sets},
        columns=list(COLUMNS.values()),
        about={name: about(asdict(own)) for name, own in results.sets.items()},
        controls=[control_sentence(results, name) for name in controls],
        control_tests=results.asked(CONTROLS, PRIMARY, SECOND),
    )
    return Page(markdown, endpoint)


def _colour(results: Results, name: str) -> int:
    """Return the number of a method's colour, the same in every picture."""
    return list(results.methods).index(name)


def _endpoint(results: Results, set_name: str, prefix: str) -> Picture:
    rows = []
    for name in results.complete():
        cell = results.sets[set_name].systems[name].get(results.primary)
        if cell and cell.mean is not None and cell.low is not None and cell.high is not None:
            colour = _colour(results, name)
            rows.append(Interval(name, cell.mean, cell.low, cell.high, colour))
    alt = f"Item nDCG@10 on {set_name} with 95 % intervals"
    return intervals(f"{prefix}ndcg-{set_name}", alt, rows, label="nDCG@10")


def signed(value: float) -> str:
    """Return four digits with their sign."""
    return f"{value:+.4f}".replace("-", "−")


def estimate(cell: Estimate | None, mark: str = "", *, bold: bool = False) -> str:
    """Return a mean with its interval in italics, which HTML sets below it."""
    if cell is None or cell.mean is None or cell.low is None or cell.high is None:
        return ""
    mean = f"**{number(cell.mean)}**" if bold else number(cell.mean)
    return f"{mean}{mark} *{number(cell.low)}–{number(cell.high)}*"


def _recall(results: Results, set_name: str) -> dict[str, list[str]]:
    """Return the cells of every system: means, intervals, marks of tests against the reference."""
    systems, contenders = results.sets[set_name].systems, results.contenders()
    tests = [test for test in results.tests if test.set == set_name and test.question == BETTER]
    marks = {(test.a, test.measure): MARKS[test.verdict] for test in tests}
    rows: dict[str, list[str]] = {name: [] for name in (*results.complete(), *BASELINES)}
    for measure in COLUMNS:
        cells = {name: systems[name].get(measure) for name in rows if name in systems}
        means = [
            cell.mean for name in contenders if (cell := cells[name]) and cell.mean is not None
        ]
        best = min(means, default=None) if measure == INVALID else max(means, default=None)
        for name, row in rows.items():
            cell = cells.get(name)
            highest = name in contenders and cell is not None and cell.mean == best
            row.append(estimate(cell, marks.get((name, measure), ""), bold=highest))
    return rows


def control_sentence(results: Results, control: str) -> str:
    """Return whether a control loses to its method."""
    rival = results.methods[control].must_lose_to
    tests = [test for test in results.asked(CONTROLS, PRIMARY, SECOND) if test.b == control]
    if not tests:
        why = f"it or {rival} has no figures or missed the code budget"
        return f"**{control}** is not tested: {why}."
    lost, ahead = (sum(test.verdict == word for test in tests) for word in MARKS if MARKS[word])
    verb = "loses" if lost == len(tests) else "loses **in part**" if lost else "does **not** lose"
    also = f", ahead in {ahead}" if ahead else ""
    return f"**{control}** {verb} against {rival}: behind in {lost} of {len(tests)} tests{also}."
