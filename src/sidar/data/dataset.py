"""Opening what the data stage wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidar.data.catalogue import open_catalogue
from sidar.data.judgments.evalsets import read_sets
from sidar.data.training.priors import Priors
from sidar.types import Catalogue, EvalSet, Json, PathLike, Prompt, Request


@dataclass(frozen=True)
class Dataset:
    """A finished ``data/`` folder. Opening reads nothing; every part is read when asked for."""

    folder: Path

    @cached_property
    def catalogue(self) -> Catalogue:
        """The catalogue, memory-mapped."""
        return open_catalogue(self.folder / "catalogue.arrow")

    @property
    def interactions_path(self) -> Path:
        """The validated log, sorted by ts (:data:`~sidar.types.INTERACTIONS_SCHEMA`)."""
        return self.folder / "interactions.parquet"

    @cached_property
    def report(self) -> Json:
        """Counts of everything that was read, dropped and made."""
        return json.loads((self.folder / "report.json").read_text())

    def requests(self, split: str | None = None) -> Iterator[Request]:
        """Requests of ``split`` (train, valid, test, none; None = all), streamed."""
        for batch in pq.ParquetFile(self.folder / "requests.parquet").iter_batches(8192):
            table = pa.Table.from_batches([batch])
            for r in (
                table if split is None else table.filter(pc.field("split") == split)
            ).to_pylist():
                prompt = Prompt(r["query"], tuple(r["history"]), r["profile"])
                shown = (tuple(r["rows"]), tuple(r["positions"]), tuple(r["actions"]))
                yield Request(
                    r["request_id"],
                    r["ts"],
                    r["user_id"],
                    prompt,
                    *shown,
                    day=r["day"],
                    bucket=r["bucket"],
                )

    def sft(self) -> pa.Table:
        """Multi-positive SFT rows of the training split."""
        return pq.read_table(self.folder / "sft.parquet")

    def lists(self, split: str = "train") -> pa.Table:
        """Preference lists of ``train`` or ``valid``."""
        return pq.read_table(self.folder / "lists.parquet", filters=[("split", "=", split)])

    def priors(self) -> Priors:
        """Popularity on training days."""
        return Priors.load(self.folder / "priors.parquet")

    def eval_sets(self, role: str | None = None) -> list[EvalSet]:
        """Evaluation sets of ``test`` or ``valid`` (None = both) as the config named them when the
        data stage ran.

        :func:`sidar.data.judgments.evalsets.build_sets` makes those of the config as it stands.
        """
        return read_sets(self.folder / "eval", role)

    def item_text(self, fields: list[str]) -> list[str]:
        """(N,) one text per row: the fields that have a value, joined by ".

        "; a category path reads "A > B".
        """
        columns = []
        for field in fields:
            if field not in self.catalogue.table.column_names:
                raise ValueError(
                    f"the catalogue has no field {field!r}; it has "
                    f"{self.catalogue.table.column_names}"
                )
            columns.append(self.catalogue.column(field))
        return [
            ". ".join(_said(v) for v in values if _said(v)) for values in zip(*columns, strict=True)
        ]


def open_dataset(folder: PathLike) -> Dataset:
    """The dataset in ``folder``; raises ``ValueError`` naming the command when it is not there."""
    folder = Path(folder)
    if not (folder / "report.json").is_file():
        raise ValueError(f"{folder} holds no dataset; make it with `sidar validate`")
    return Dataset(folder)


def _said(value: object) -> str:
    if isinstance(value, list):
        return " > ".join(value)
    return "" if value is None else str(value)
