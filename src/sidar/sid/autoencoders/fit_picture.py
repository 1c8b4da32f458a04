"""The training of an RQ-VAE as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from sidar.fitting.picture import Panel, draw_curves
from sidar.types import Json, PathLike

_TERMS = ("reconstruction", "commitment", "contrast", "anchor", "usage")


def draw_fit(history: Sequence[Json], path: PathLike, title: str = "") -> None:
    """Draw loss terms, error, use and perplexity of each level over the steps of ``history``
    (``fit.jsonl``) as a PNG.
    """
    records = [record for record in history if "loss" in record]
    last = records[-1] if records else {"step": 0}
    levels = sorted(int(key.removeprefix("use_")) for key in last if key.startswith("use_"))
    panels = (
        Panel("Terms of the loss (unweighted)", tuple((term, term) for term in _TERMS), "log"),
        Panel("Squared distance to the restored vector", (("error", "error"),)),
        Panel("Share of codes in use (moving average)", _by_level("use", levels), "share"),
        Panel("Perplexity of the codes", _by_level("perplexity", levels)),
    )
    restarts = sum(record["restarts"] for record in records)
    warnings = [str(record["warning"]) for record in history if "warning" in record]
    headline = f"{title} · {last['step']} steps · {restarts} codes restarted"
    draw_curves(records, panels, path, [headline, *warnings])


def _by_level(name: str, levels: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """Return ``(key, label)`` of one measure of every level."""
    return tuple((f"{name}_{level}", f"level {level}") for level in levels)
