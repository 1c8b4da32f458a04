"""The denoisers at the lab's setting (four times the steps, three times the rate), where the lists
decide the sign.
"""

from __future__ import annotations

from benchmarks.evidence.report.cells import Evidence
from benchmarks.evidence.report.compare import CONTROL, compare, difference, levels
from benchmarks.evidence.report.document import Block, Entry, Table, Text
from benchmarks.evidence.report.lab import LOSE
from benchmarks.evidence.report.names import PRIMARY, measure, row
from benchmarks.evidence.report.show import comparisons, level, row_seeds

SYSTEM, BARE = "raddpo", "raddpo-no-rdrw"
#: Rows on the log's own lists; the state is RDRW's where it is not the default.
ROWS = (
    (CONTROL, ""),
    (SYSTEM, ""),
    (SYSTEM, "state=item_vector"),
    (BARE, ""),
    ("raddpo-constant", ""),
    ("raddpo-shuffled", ""),
    ("raddpo-truth", ""),
    ("raddpo-skip-above", ""),
)
NOISED = (SYSTEM, BARE, "raddpo-constant", "raddpo-shuffled")


def dose(evidence: Evidence) -> list[Block]:
    """RDRW, its controls and the cheap denoisers where alignment is long and fast enough for lists
    to matter.
    """
    setting = _setting(evidence)
    if setting is None:
        return [Text("Not run.")]
    blocks: list[Block] = [
        Text(
            f"The same question at the lab's setting (`{setting}`), where the corners of section "
            "Why ask what the quality of the negatives decides. These cells were planned after "
            "the corners had been run and before any of them was: a second look, not the "
            "registered one. Holm runs inside each table."
        )
    ]
    noisy = f"{LOSE},{setting}"
    for metric in (*PRIMARY["utility"], *PRIMARY["click"]):
        asked = [
            (
                f"{_name(SYSTEM)} − {row(CONTROL)}",
                difference(SYSTEM, CONTROL, metric, variant=setting),
            ),
            (f"{_name(BARE)} − {row(CONTROL)}", difference(BARE, CONTROL, metric, variant=setting)),
        ]
        for system, state in ROWS[1:]:
            if (system, state) != (BARE, ""):
                variant = ",".join(filter(None, (state, setting)))
                asked.append(
                    (
                        f"{_name(system, state)} − {_name(BARE)}",
                        difference(system, BARE, metric, variant=variant, b_variant=setting),
                    )
                )
        for system in NOISED[1:]:
            asked.append(
                (
                    f"half relevant: {_name(SYSTEM)} − {_name(system)}",
                    difference(SYSTEM, system, metric, variant=noisy),
                )
            )
        results = compare(evidence, [contrast for _, contrast in asked])
        target = metric.partition(".")[0]
        shown = [
            (name, r) for (name, _), r in zip(asked, results, strict=True) if r.test is not None
        ]
        blocks.append(comparisons(shown, first=f"{measure(metric)} ({target})"))
    return [*blocks, _levels(evidence, setting, noisy)]


def _setting(evidence: Evidence) -> str | None:
    """The longer setting, as far as a row of this section was run at it."""
    found = {
        cell.variant.removeprefix("state=item_vector,")
        for cell in evidence.cells.values()
        if "dose" in cell.groups and not cell.variant.startswith(LOSE)
    }
    return min(found, default=None)


def _name(system: str, state: str = "") -> str:
    return row(system) + (f" on {state.partition('=')[2]}" if state else "")


def _levels(evidence: Evidence, setting: str, noisy: str) -> Table:
    metrics = [*PRIMARY["utility"], *PRIMARY["click"]]
    places = [(_name(s, state), s, ",".join(filter(None, (state, setting)))) for s, state in ROWS]
    places += [(f"{row(s)}, half relevant", s, noisy) for s in NOISED]
    places = [place for place in places if evidence.runs(place[1], place[2])]
    seeds, told = row_seeds(evidence, [(system, variant) for _, system, variant in places], metrics)
    rows: list[list[Entry]] = []
    for name, system, variant in places:
        found = levels(evidence, system, metrics, variant=variant, seeds=seeds)
        rows.append([name, *(level(found.get(m)) for m in metrics)])
    return Table(["", *(f"{m.partition('.')[0]}: {measure(m)}" for m in metrics)], rows, note=told)
