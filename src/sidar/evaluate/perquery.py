"""Per-query values in long form: the file from which every number of the table can
be made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidar.evaluate.stats import bootstrap_intervals
from sidar.types import Json, PathLike, Scores

FILE = "per_query.parquet"
QUERIES_FILE = "queries.parquet"

Cell = dict[str, float]  # mean, low, high, n


class PerQuery:
    """``set, system, measure, query_id, value``; measures carry their level: ``item/recall@10``,
    ``sid/mrr`` …

    A measure may cover only some queries of its set (invalid mass is measured on a subset).
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], tuple[tuple[str, ...], np.ndarray]] = {}

    def add(
        self, set_name: str, system: str, prefix: str, scores: Scores, query_ids: Sequence[str]
    ) -> None:
        """Add ``{measure: (n,) values}`` of ``query_ids`` (n) as ``prefix/measure``."""
        ids = tuple(query_ids)
        for measure, values in scores.items():
            if len(values) != len(ids):
                raise ValueError(
                    f"{set_name}, {system}, {measure}: {len(values)} values for {len(ids)} queries"
                )
            self._values[set_name, system, f"{prefix}/{measure}"] = (
                ids,
                np.asarray(values, dtype=np.float64),
            )

    def copy(self, set_name: str, other: str, query_ids: Collection[str]) -> None:
        """Add the values of ``query_ids`` of ``set_name`` again as the set ``other``."""
        for (name, system, measure), (ids, found) in list(self._values.items()):
            if name == set_name:
                keep = np.array([query_id in query_ids for query_id in ids], dtype=bool)
                chosen = tuple(query_id for query_id in ids if query_id in query_ids)
                self._values[other, system, measure] = (chosen, found[keep])

    def sets(self) -> list[str]:
        return list(dict.fromkeys(name for name, _, _ in self._values))

    def systems(self, set_name: str) -> list[str]:
        return list(dict.fromkeys(system for name, system, _ in self._values if name == set_name))

    def measures(self, set_name: str, system: str) -> list[str]:
        return [
            measure for name, other, measure in self._values if (name, other) == (set_name, system)
        ]

    def get(
        self, set_name: str, system: str, measure: str
    ) -> tuple[tuple[str, ...], np.ndarray] | None:
        """Query ids and values, or None where the system lacks the measure."""
        return self._values.get((set_name, system, measure))

    def write(self, folder: PathLike) -> None:
        """Write ``per_query.parquet`` into ``folder``."""
        sizes = [len(ids) for ids, _ in self._values.values()]
        columns: Json = {}
        for at, name in enumerate(("set", "system", "measure")):
            words = list(dict.fromkeys(key[at] for key in self._values))
            number = {word: i for i, word in enumerate(words)}
            codes = np.repeat(
                np.array([number[key[at]] for key in self._values], dtype=np.int32), sizes
            )
            columns[name] = pa.DictionaryArray.from_arrays(
                pa.array(codes), pa.array(words, pa.string())
            )
        columns["query_id"] = pa.array(
            [q for ids, _ in self._values.values() for q in ids], pa.string()
        )
        columns["value"] = np.concatenate(
            [values for _, values in self._values.values()] or [np.zeros(0)]
        )
        pq.write_table(pa.table(columns), Path(folder) / FILE, compression="zstd")

    @classmethod
    def read(cls, folder: PathLike) -> PerQuery:
        """Read what :meth:`write` wrote. Raises ``ValueError`` where the file is missing."""
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"{path} does not exist; make it with `sidar evaluate`")
        table = pq.read_table(path).unify_dictionaries()
        parts = [table.column(name).combine_chunks() for name in ("set", "system", "measure")]
        parts = [
            part if isinstance(part, pa.DictionaryArray) else part.dictionary_encode()
            for part in parts
        ]
        codes = np.stack([part.indices.to_numpy() for part in parts], axis=1)
        words = [part.dictionary.to_pylist() for part in parts]
        ids, values = table.column("query_id").to_pylist(), table.column("value").to_numpy()
        changes = np.flatnonzero((codes[1:] != codes[:-1]).any(axis=1)) + 1
        out = cls()
        for start, end in zip([0, *changes], [*changes, len(codes)], strict=True):
            if start == end:
                continue
            key = tuple(word[code] for word, code in zip(words, codes[start], strict=True))
            out._values[key] = (tuple(ids[start:end]), values[start:end])
        return out


def write_queries(folder: PathLike, rows: Iterable[Json]) -> None:
    """Write ``queries.parquet``: set, query_id, query, cluster, labels (JSON) of every scored
    query.
    """
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), Path(folder) / QUERIES_FILE)


def read_clusters(folder: PathLike) -> dict[str, dict[str, str]]:
    """``{set: {query_id: cluster}}`` of ``queries.parquet``."""
    clusters: dict[str, dict[str, str]] = {}
    for row in pq.read_table(
        Path(folder) / QUERIES_FILE, columns=["set", "query_id", "cluster"]
    ).to_pylist():
        clusters.setdefault(row["set"], {})[row["query_id"]] = row["cluster"]
    return clusters


def summarise(
    values: PerQuery, clusters: Mapping[str, Mapping[str, str]], *, samples: int, seed: int
) -> dict[str, dict[str, dict[str, Cell]]]:
    """``{set: {system: {measure: {mean, low, high, n}}}}``; intervals resample the set's query
    clusters.

    All measures of one set that cover the same queries share their resamples.
    """
    out: dict[str, dict[str, dict[str, Cell]]] = {}
    for name in values.sets():
        groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for system in values.systems(name):
            out.setdefault(name, {})[system] = {}
            for measure in values.measures(name, system):
                found = values.get(name, system, measure)
                assert found is not None
                groups.setdefault(found[0], []).append((system, measure))
        for ids, cells in groups.items():
            if not ids:
                continue
            matrix = np.stack(
                [values._values[name, system, measure][1] for system, measure in cells], axis=1
            )
            labels = np.array([clusters[name][query_id] for query_id in ids])
            intervals = bootstrap_intervals(matrix, labels, seed, samples=samples)
            for (system, measure), mean, (low, high) in zip(
                cells, matrix.mean(0), intervals.tolist(), strict=True
            ):
                out[name][system][measure] = {
                    "mean": float(mean),
                    "low": low,
                    "high": high,
                    "n": len(ids),
                }
    return out
