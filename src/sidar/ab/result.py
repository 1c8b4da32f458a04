"""The outcome of an experiment as values: what the terminal, ``ab.json`` and the page show."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from sidar.ab.assign import Agreement
from sidar.ab.channels import ChannelReport
from sidar.ab.effects import Effect
from sidar.ab.interleave import Preference
from sidar.ab.srm import RatioTest
from sidar.types import PathLike


@dataclass(frozen=True)
class Row:
    """One metric of one treatment against the control."""

    metric: str
    treatment: str
    effect: Effect
    p_holm: float
    p_any_time: float  # always valid, corrected by Holm's method as well
    any_time: tuple[float, float]  # confidence sequence of the relative lift at the last look
    users: int  # of both buckets
    detectable: float  # smallest relative lift that these users see
    needed: float  # users of both buckets that see the lift of interest
    looks: dict[str, list[float]]

    def verdict(self, alpha: float) -> str:
        """Return "higher", "lower" or "cannot tell"."""
        if not self.p_holm < alpha:
            return "cannot tell"
        return "higher" if self.effect.absolute > 0 else "lower"


@dataclass(frozen=True)
class Need:
    """What an experiment on one metric would need: users of two equal buckets."""

    metric: str
    value: float
    sd: float  # between users, of the linearised metric
    users: float
    detectable: float  # smallest relative lift that the users at hand would see


@dataclass
class Outcome:
    """Everything that ``sidar ab`` reports."""

    events: dict[str, Any]
    lift: float
    alpha: float
    power: float
    days: int = 0
    names: tuple[str, ...] = ()
    pre_period: bool = False
    crossed: int = 0
    ratio: RatioTest | None = None
    agreement: Agreement | None = None
    definitions: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    channels: list[ChannelReport] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """Return one sentence per row."""
        return [self._sentence(row) for row in self.rows]

    def _sentence(self, row: Row) -> str:
        effect = row.effect
        sentence = (
            f"{row.metric} in {row.treatment}: {percent(effect.relative)} "
            f"({percent(effect.relative_low)} to {percent(effect.relative_high)})"
        )
        word = row.verdict(self.alpha)
        if word != "cannot tell":
            return f"{sentence}: {word} than in {self.names[0]} (p = {row.p_holm:.2g} after Holm)."
        sentence += f": cannot be told from noise (p = {row.p_holm:.2g} after Holm)."
        if not math.isfinite(row.needed):
            return sentence
        enough = "enough" if row.needed <= row.users else "too few"
        return (
            f"{sentence} To see {percent(self.lift)} with {self.power:.0%} power takes "
            f"{math.ceil(row.needed):,} users; {row.users:,} are {enough}."
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON has it; what is not a number is null."""
        plain: dict[str, Any] = _plain(asdict(self))
        for row, values in zip(self.rows, plain["rows"], strict=True):
            values["verdict"] = row.verdict(self.alpha)
        plain["sentences"] = self.sentences()
        return plain

    def write_json(self, path: PathLike) -> None:
        """Write :meth:`as_json` to a file."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.as_json(), file, indent=1, ensure_ascii=False)
            file.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def percent(value: float) -> str:
    """Return a share with its sign in per cent, as "+0.34 %"; "–" where there is none."""
    return f"{value:+.2%}".replace("%", " %") if math.isfinite(value) else "–"


def count(value: float) -> str:
    """Return a number of users, rounded up; "–" where there is none."""
    return f"{math.ceil(value):,}" if math.isfinite(value) else "–"


def quantity(value: float) -> str:
    """Return a value of a metric in at most seven characters."""
    if not math.isfinite(value):
        return "–"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    digits = max(0, min(4, 5 - len(f"{abs(value):.0f}")))
    return f"{value:.{digits}f}"
