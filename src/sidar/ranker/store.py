"""A fitted ranker on disk: the learner beside a JSON that names its columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from sidar.ranker.columns import Column, columns_of, names_of
from sidar.ranker.learner import Learner
from sidar.ranker.residual import Shrinkage
from sidar.types import Json, PathLike

#: Version of the files, and the files of a use.
FORMAT = 1
Use = Literal["answer", "reward"]
_SUFFIX = {"lambdamart": "txt", "dcn": "safetensors"}


def _lambdamart(path: Path) -> Learner:
    from sidar.ranker.lambdamart import LambdaMart

    return LambdaMart.load(path)


def _dcn(path: Path) -> Learner:
    from sidar.ranker.dcn import Dcn

    return Dcn.load(path)


_OPEN: Mapping[str, Callable[[Path], Learner]] = {"lambdamart": _lambdamart, "dcn": _dcn}


@dataclass(frozen=True)
class Ranker:
    """A learner and the columns that it reads; ``levels`` of the SIDs, 0 = without a model's beams.

    ``facts`` says how it was chosen and how it is used: ``depth`` of the channels.
    """

    use: Use
    levels: int
    learner: Learner
    facts: Json

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features that it reads, in their order."""
        return columns_of(self.use, self.levels)

    @property
    def reads_beams(self) -> bool:
        """Whether it reads what a model's beams say."""
        return any(column.needs == "beam" for column in self.columns)

    @property
    def shrinkage(self) -> Shrinkage | None:
        """How much of it is added to the smoothed answer; None = it orders by itself."""
        found = self.facts.get("shrinkage")
        return None if found is None else Shrinkage(**found)

    def with_shrinkage(self, shrinkage: Shrinkage) -> Ranker:
        """Return the same ranker with another shrinkage."""
        return replace(self, facts={**self.facts, "shrinkage": shrinkage.to_json()})

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return (P,) float64 scores of feature rows (P, F)."""
        return self.learner.scores(features)

    def save(self, folder: PathLike) -> None:
        """Write ``ranker-<use>.json`` and the learner beside it into ``folder``."""
        file = f"ranker-{self.use}.{_SUFFIX[self.learner.name]}"
        self.learner.save(Path(folder) / file)
        about = {
            "format": FORMAT,
            "use": self.use,
            "levels": self.levels,
            "learner": self.learner.name,
            "file": file,
            "columns": list(names_of(self.columns)),
            "facts": self.facts,
        }
        (Path(folder) / f"ranker-{self.use}.json").write_text(json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, folder: PathLike, use: Use) -> Ranker:
        """Read what :meth:`save` wrote; ``ValueError`` for a missing file or other columns."""
        path = Path(folder) / f"ranker-{use}.json"
        if not path.is_file():
            raise ValueError(
                f"{path} does not exist; set ranker.enabled to true and run `sidar run`"
            )
        about: Json = json.loads(path.read_text())
        if about.get("format") != FORMAT:
            raise ValueError(
                f"{path} has format {about.get('format')}, Sidar reads {FORMAT}; run `sidar run` "
                "again"
            )
        learner = _OPEN[about["learner"]](Path(folder) / about["file"])
        ranker = cls(cast(Use, about["use"]), int(about["levels"]), learner, about["facts"])
        if list(names_of(ranker.columns)) != about["columns"]:
            raise ValueError(
                f"{path} was fitted on other features than this version computes; run `sidar run` "
                "again"
            )
        return ranker

    @staticmethod
    def files(folder: PathLike, use: Use) -> list[Path]:
        """Return the files of a use in ``folder``, none where there is no ranker."""
        return sorted(Path(folder).glob(f"ranker-{use}.*"))
