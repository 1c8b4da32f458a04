"""Figures by name, each a mean over seeds with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


class Figures(dict[str, float]):
    """A flat map name → number; :meth:`put` adds ``name``, ``name.lo`` and ``name.hi``."""

    def put(self, name: str, values: Tensor) -> float:
        """Mean of ``values`` (S,) and mean ± 1.96 standard errors over seeds."""
        mean = values.double().mean().item()
        half = 1.96 * values.double().std().item() / math.sqrt(len(values))
        self[name], self[f"{name}.lo"], self[f"{name}.hi"] = mean, mean - half, mean + half
        return mean

    def put_all(self, prefix: str, values: dict[str, Tensor], only: Sequence[str] = ()) -> None:
        """:meth:`put` for every measure, or for those of ``only``, named ``prefix/measure``."""
        for measure in only or values:
            self.put(f"{prefix}/{measure}", values[measure])

    def band(self, name: str) -> tuple[float, float, float]:
        """(mean, low, high) of ``name``."""
        return self[name], self[f"{name}.lo"], self[f"{name}.hi"]

    def text(self, name: str, digits: int = 3, plus: bool = False) -> str:
        """``mean [low, high]`` for tables."""
        form = f"{{:{'+' if plus else ''}.{digits}f}}"
        mean, low, high = (form.format(v) for v in self.band(name))
        return f"{mean} [{low}, {high}]"


def minus(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    """a − b seed by seed, for every measure."""
    return {name: a[name] - b[name] for name in a}
