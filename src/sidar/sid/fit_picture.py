"""The training of an RQ-VAE as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sidar.types import PathLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#22313f"
_COLOURS = ("#2a6f97", "#e07a5f", "#81b29a", "#9d8189", "#22313f")


def draw_fit(history: Sequence[dict[str, Any]], path: PathLike, title: str = "") -> None:
    """Loss terms, error, use and perplexity of each level over the steps of ``history``
    (``fit.jsonl``) as a PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = [record for record in history if "loss" in record]
    figure = Figure(figsize=(12, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2)
    levels = sorted(
        int(key.removeprefix("use_")) for key in (records or [{}])[-1] if key.startswith("use_")
    )
    panels = (
        ("Terms of the loss (unweighted)", ("reconstruction", "commitment", "contrast"), False),
        ("Squared distance to the restored vector", ("error",), False),
        ("Share of codes in use (moving average)", tuple(f"use_{level}" for level in levels), True),
        ("Perplexity of the codes", tuple(f"perplexity_{level}" for level in levels), False),
    )
    for axes, (name, keys, share) in zip(grid.flat, panels, strict=True):
        axes.set_title(name, fontsize=10, color=_INK, fontweight="bold")
        _lines(axes, records, [key for key in keys if records and key in records[-1]])
        if share:
            axes.set_ylim(0, 1.03)
            axes.yaxis.set_major_formatter("{x:.0%}")
        elif name.startswith("Terms"):
            axes.set_yscale("log")
        axes.set_xlabel("step", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, labelsize=8)
    restarts = sum(record["restarts"] for record in records)
    said = [str(record["warning"]) for record in history if "warning" in record]
    figure.suptitle(
        "\n".join(
            [
                (
                    f"{title} · {records[-1]['step'] if records else 0} steps · {restarts} codes "
                    "restarted"
                ),
                *said,
            ]
        ),
        fontsize=11 if not said else 9,
        color=_INK,
        wrap=True,
    )
    figure.savefig(path, dpi=110)


def _lines(axes: Axes, records: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    steps = [record["step"] for record in records]
    for key, colour in zip(keys, _COLOURS * 9, strict=False):
        axes.plot(
            steps,
            [record[key] for record in records],
            "-",
            marker=".",
            color=colour,
            label=_name(key),
        )
    if keys:
        axes.legend(frameon=False, fontsize=8, loc="upper right")


def _name(key: str) -> str:
    kind, _, level = key.partition("_")
    return f"level {level}" if level.isdigit() else kind
