"""The quality report as one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sidar.types import Json, PathLike, SemanticIds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _ACCENT, _SECOND, _PALE = "#22313f", "#2a6f97", "#e07a5f", "#c9d6df"


def draw(report: Json, sids: SemanticIds, path: PathLike) -> None:
    """``report`` (:func:`sidar.sid.quality.report`) as a PNG of six panels; what a report lacks
    says so.

    With ``classes`` two more: collisions by popularity, and lengths.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [_buckets, _usage, _levels, _purity, _error, _pairs]
    if "classes" in report:
        panels[3:3], panels[7:] = [_classes], [_lengths]
    figure = Figure(figsize=(2 * len(panels), 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(panels) // 2)
    for axes, panel in zip(grid.flat, panels, strict=True):
        panel(axes, report, sids)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, labelsize=8)
        axes.title.set(fontsize=10, color=_INK, fontweight="bold")
    figure.suptitle(
        f"{report['items']:,} items · {report['sids']:,} SIDs · {report['items_per_sid']:.2f} "
        f"items per SID · {report['collision_rate']:.1%} of items share theirs · Gini "
        f"{report['gini']:.2f}",
        fontsize=11,
        color=_INK,
    )
    figure.savefig(path, dpi=110)


def _buckets(axes: Axes, report: Json, sids: SemanticIds) -> None:
    axes.set_title("Items by size of their SID")
    bars = [bar for bar in report["buckets"] if bar["sids"]]
    total = max(report["items"], 1)
    drawn = axes.bar(
        [bar["size"] for bar in bars], [bar["items"] / total for bar in bars], color=_ACCENT
    )
    axes.bar_label(
        drawn, [f"{bar['sids']:,} SIDs" for bar in bars], fontsize=7, color=_INK, padding=1
    )
    axes.set_xlabel("items in the SID", fontsize=8)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.margins(y=0.12)


def _usage(axes: Axes, report: Json, sids: SemanticIds) -> None:
    axes.set_title("Items per code, busiest first")
    for level, colour in zip(
        range(sids.n_levels), (_ACCENT, _SECOND, "#81b29a", "#9d8189", _INK) * 9, strict=False
    ):
        codes = sids.codes[:, level]
        count = np.sort(np.bincount(codes[codes >= 0], minlength=sids.codebook_sizes[level]))[::-1]
        axes.plot(
            (np.arange(len(count)) + 1) / len(count),
            count.clip(0.5),
            color=colour,
            label=f"level {level + 1}",
        )
    axes.set_yscale("log")
    axes.set_xlabel("share of the level's codes", fontsize=8)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def _levels(axes: Axes, report: Json, sids: SemanticIds) -> None:
    axes.set_title("Codes: in the book, used, perplexity")
    place = np.arange(len(report["levels"]))
    for offset, key, colour in (
        (-0.27, "codes", _PALE),
        (0, "used", _ACCENT),
        (0.27, "perplexity", _SECOND),
    ):
        values = [level[key] for level in report["levels"]]
        drawn = axes.bar(place + offset, values, 0.25, color=colour, label=key)
        axes.bar_label(
            drawn, [f"{value:,.0f}" for value in values], fontsize=7, color=_INK, padding=1
        )
    axes.set_xticks(place, [f"level {i + 1}" for i in place])
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.margins(y=0.12)


def _classes(axes: Axes, report: Json, sids: SemanticIds) -> None:
    axes.set_title("Items that share their SID, by popularity")
    found = report["classes"]
    drawn = axes.bar(
        list(found), [each["collision_rate"] for each in found.values()], color=_ACCENT
    )
    notes = [
        f"{each['collision_rate']:.0%}\n{each['mean_bucket']:.1f} in the SID"
        for each in found.values()
    ]
    axes.bar_label(drawn, notes, fontsize=7, color=_INK, padding=1)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.margins(y=0.2)


def _lengths(axes: Axes, report: Json, sids: SemanticIds) -> None:
    axes.set_title("Codes per item, by popularity")
    found = report["classes"]
    drawn = axes.bar(list(found), [each["mean_length"] for each in found.values()], color=_SECOND)
    axes.bar_label(
        drawn,
        [f"{each['mean_length']:.2f}" for each in found.values()],
        fontsize=8,
        color=_INK,
        padding=1,
    )
    words = f"{report['code_bits']['per_item']:.1f} bits per item"
    if "traffic_length" in report:
        words += f"; a click meets {report['traffic_length']:.2f} codes"
    axes.set_xlabel(words, fontsize=8)
    axes.margins(y=0.12)


def _purity(axes: Axes, report: Json, sids: SemanticIds) -> None:
    axes.set_title("Purity of prefixes (dashed: chance)")
    rows = report.get("purity", [])
    if not rows:
        return _nothing(axes, "no category paths")
    for category_depth, colour in zip(
        sorted({r["category_depth"] for r in rows}), (_INK, _ACCENT, _SECOND), strict=False
    ):
        mine = [r for r in rows if r["category_depth"] == category_depth]
        depth = [r["prefix_depth"] for r in mine]
        axes.plot(
            depth,
            [r["purity"] for r in mine],
            "o-",
            color=colour,
            label=f"category depth {category_depth}",
        )
        axes.plot(depth, [r["chance"] for r in mine], ".--", color=colour, alpha=0.5)
    axes.set_xticks(sorted({r["prefix_depth"] for r in rows}))
    axes.set_xlabel("codes in the prefix", fontsize=8)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _error(axes: Axes, report: Json, sids: SemanticIds) -> None:
    axes.set_title("Reconstruction error")
    if "reconstruction" not in report:
        return _nothing(axes, "no vectors")
    error = report["reconstruction"]["error"]
    axes.plot(range(len(error)), error, "o-", color=_ACCENT)
    for depth, value in enumerate(error):
        axes.annotate(
            f"{value:.3f}",
            (depth, value),
            (4, 4),
            textcoords="offset points",
            fontsize=8,
            color=_INK,
        )
    axes.set_xticks(range(len(error)))
    axes.set_xlabel("codes known", fontsize=8)
    axes.set_ylabel("mean squared distance", fontsize=8)
    axes.set_ylim(0)
    axes.margins(x=0.1, y=0.15)


def _pairs(axes: Axes, report: Json, sids: SemanticIds) -> None:
    axes.set_title("Positive and negative share their first codes")
    if not report.get("pairs", {}).get("pairs"):
        return _nothing(axes, "no preference pairs")
    pairs = report["pairs"]
    series = (
        ("this table", pairs["shared"][:3], _ACCENT),
        ("RAD-DPO's log", pairs["paper_shared"], _PALE),
    )
    for offset, (label, values, colour) in zip((-0.2, 0.2), series, strict=True):
        drawn = axes.bar(np.arange(len(values)) + offset, values, 0.38, color=colour, label=label)
        axes.bar_label(
            drawn, [f"{value:.1%}" for value in values], fontsize=8, color=_INK, padding=1
        )
    count = max(len(pairs["shared"][:3]), 2)
    axes.set_xticks(range(count), [f"first {i + 1}" if i else "first code" for i in range(count)])
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel(
        f"{pairs['pairs']:,} pairs; {pairs['same_sid']:.1%} of one SID are left out", fontsize=8
    )
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.margins(y=0.12)


def _nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", color=_INK, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
