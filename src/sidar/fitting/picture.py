"""The curves of a training as one picture, ``fit.png``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidar.types import PathLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#22313f"
_COLOURS = ("#2a6f97", "#e07a5f", "#81b29a", "#9d8189", INK)

Record = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One of a picture's panels: ``curves`` are ``(key of the records, label)``."""

    title: str
    curves: tuple[tuple[str, str], ...]
    scale: str = "linear"  # linear, log, or share: an axis in percent from 0 to 100


def read_records(log: PathLike) -> list[Record]:
    """Return the records of a ``log.jsonl``."""
    return [json.loads(line) for line in Path(log).read_text().splitlines()]


def draw_curves(
    records: Sequence[Record], panels: Sequence[Panel], path: PathLike, lines: Sequence[str]
) -> None:
    """Draw an even number of ``panels`` over the steps of ``records`` as a PNG below ``lines``.

    The title is the first line; the others are warnings. A key that no record has is left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(panels) // 2
    figure = Figure(figsize=(12, 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(rows, 2).flat, panels, strict=True):
        axes.set_title(panel.title, fontsize=10, color=INK, fontweight="bold")
        _draw_panel(axes, records, panel)
        axes.set_xlabel("step", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
    size = 11 if len(lines) == 1 else 9
    figure.suptitle("\n".join(lines), fontsize=size, color=INK, wrap=True)
    figure.savefig(path, dpi=110)


def _draw_panel(axes: Axes, records: Sequence[Record], panel: Panel) -> None:
    drawn = False
    for number, (key, label) in enumerate(panel.curves):
        points = [(record["step"], record[key]) for record in records if key in record]
        if points:
            steps, values = zip(*points, strict=True)
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(steps, values, "-", marker=".", color=colour, label=label)
            drawn = True
    if panel.scale == "share":
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter("{x:.0%}")
    elif panel.scale == "log":
        axes.set_yscale("log")
    if drawn:
        axes.legend(frameon=False, fontsize=8, loc="upper right")
