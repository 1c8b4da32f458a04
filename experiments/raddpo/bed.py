"""The bed: the full simulated traffic on the embedded sample, its SIDs, and the variants of its
preference lists.

Everything is built once under a work folder by Sidar's own stages; a variant is a data or SID
folder of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from experiments.raddpo.registration import check_frozen, registration, simulator_config
from sidar.artifacts import read_manifest, sha256_file, write_artifact
from sidar.config import Config
from sidar.pipeline.demo import base, merge

#: Truth weights of negatives: what eq. 6 would give with a perfect similarity (its two ends).
PSEUDO_WEIGHT, TRUE_WEIGHT = 0.5, 1.0
#: Grades of the simulator's truth.
EXACT, SUBSTITUTE = 1.0, 0.1

#: A figure of one variant's lists, kept beside them; other variants must not inherit it.
RELEVANT = "relevant-{}.json"


class Bed:
    """Folders under ``work``: ``inputs``, ``data/<variant>``, ``embed``, ``sid/<sizes>``."""

    def __init__(self, work: Path) -> None:
        self.work = Path(work)
        self.inputs = self.work / "inputs"
        self.truth = self.inputs / "truth.parquet"
        self.utility = self.inputs / "utility.parquet"
        self.embed = self.work / "embed"

    def data(self, variant: str = "base") -> Path:
        return self.work / "data" / variant

    def sid(self, sizes: str) -> Path:
        return self.work / "sid" / sizes.replace("/", "-")

    def config(self, **sections: Any) -> Config:
        """The bed's config with ``sections`` on top; paths inside the work folder."""
        bed = registration()["bed"]
        settings = merge(base(str(self.inputs), "evidence"), bed["settings"])
        settings = merge(
            settings, {"runs": str(self.work), "sid": {"codebook_sizes": bed["codebooks"]}}
        )
        everything = {"max_queries": None, "targets": ["click", "order", "random_click"]}
        settings = merge(settings, {"evaluate": everything})
        return Config.model_validate(merge(settings, sections))

    # ------------------------------------------------------------------ building

    def build(self, say: Callable[[str], None] = print) -> None:
        """Inputs, base data, vectors and the registered SIDs; what stands is kept.

        ``ValueError`` if not frozen.
        """
        check_frozen()
        self.work.mkdir(parents=True, exist_ok=True)
        self._stage(self.inputs, "inputs", say, self._write_inputs)
        made = json.loads((self.inputs / "simulator.json").read_text())
        if made["config_hash"] != registration()["simulator"]["hash"]:
            raise ValueError(
                f"{self.work} holds the bed of another simulator; give another --work or delete it"
            )
        self.build_data("base", say)
        import sidar.embed

        cfg = self.config()
        self._stage(
            self.embed,
            "embed",
            say,
            lambda out: sidar.embed.build(cfg, self.data(), out, device="cpu"),
        )
        self.build_sid("/".join(map(str, registration()["bed"]["codebooks"])), say)

    def _write_inputs(self, out: Path) -> None:
        from sidar import simulate
        from sidar.data import sample

        sample.write_inputs(out)
        simulate.run(sample.load_catalogue(), simulator_config(), out)

    def build_sid(self, sizes: str, say: Callable[[str], None] = print) -> Path:
        """SIDs of codebooks such as ``512/256/128``."""
        import sidar.sid

        codebooks = [int(size) for size in sizes.split("/")]
        cfg = self.config(sid={"codebook_sizes": codebooks, "levels": len(codebooks)})
        folder = self.sid(sizes)
        self._stage(
            folder, "sid", say, lambda out: sidar.sid.build(cfg, self.data(), self.embed, out)
        )
        return folder

    def build_data(self, variant: str, say: Callable[[str], None] = print) -> Path:
        """``base``, ``skip-above``, ``ips``, ``truth``, ``clean`` or ``noise-<share>``."""
        from sidar.data import build

        folder = self.data(variant)
        kind, _, number = variant.partition("-")
        if variant in ("base", "skip-above", "ips"):
            change = {"skip-above": {"negatives": "skip_above"}, "ips": {"debias": "ips"}}.get(
                variant, {}
            )
            cfg = self.config(preference=change)
            self._stage(folder, "data", say, lambda out: build(cfg, out))
        elif kind in ("truth", "noise", "clean"):
            change_lists = {
                "truth": self._with_truth,
                "noise": self._with_noise,
                "clean": self._clean,
            }[kind]
            self._stage(
                folder, "data", say, lambda out: self._derive(out, change_lists, float(number or 0))
            )
        else:
            raise ValueError(f"no variant {variant!r} of the bed's data")
        return folder

    def _stage(
        self, folder: Path, kind: str, say: Callable[[str], None], make: Callable[[Path], Any]
    ) -> None:
        if read_manifest(folder) is not None:
            return
        say(f"bed: {folder.relative_to(self.work)}")
        with write_artifact(folder, kind, config={}) as draft:
            make(draft.path)

    def _derive(
        self, out: Path, change: Callable[[pa.Table, float], pa.Table], number: float
    ) -> None:
        """The base data (as hard links) with another ``lists.parquet``; validation lists stay as
        they are.
        """
        for source in sorted(self.data().rglob("*")):
            target = out / source.relative_to(self.data())
            if source.is_dir():
                target.mkdir(exist_ok=True)
            elif source.name not in ("lists.parquet", "manifest.json") and not source.match(
                RELEVANT.format("*")
            ):
                os.link(source, target)
        lists = pq.read_table(self.data() / "lists.parquet")
        train = np.array(lists.column("split").to_pylist()) == "train"
        changed = change(lists.filter(pa.array(train)), number)
        rest = lists.filter(pa.array(~train))
        for name in changed.column_names[len(lists.column_names) :]:
            empty = pa.array([[TRUE_WEIGHT] * len(n) for n in rest.column("negatives").to_pylist()])
            rest = rest.append_column(name, empty.cast(changed.schema.field(name).type))
        pq.write_table(pa.concat_tables([changed, rest]), out / "lists.parquet")

    # ------------------------------------------------------------------ lists with known truth

    def _with_truth(self, lists: pa.Table, _: float) -> pa.Table:
        """``negative_weights`` from the simulator's truth: .5 for pseudo-negatives, 1 otherwise."""
        hidden = self.pseudo_negatives()
        weights = [
            [PSEUDO_WEIGHT if row in hidden.get(request, ()) else TRUE_WEIGHT for row in rows]
            for request, rows in zip(
                lists.column("request_id").to_pylist(),
                lists.column("negatives").to_pylist(),
                strict=True,
            )
        ]
        return lists.append_column("negative_weights", pa.array(weights, pa.list_(pa.float32())))

    def _clean(self, lists: pa.Table, _: float) -> pa.Table:
        """Without negatives that the truth calls a substitute or better: what no real log can
        offer.
        """
        good = self.relevant_rows(SUBSTITUTE)
        queries, negatives = (
            lists.column("query").to_pylist(),
            lists.column("negatives").to_pylist(),
        )
        found = [
            [row for row in rows if row not in good.get(q, ())]
            for q, rows in zip(queries, negatives, strict=True)
        ]
        return _with_negatives(lists, found)

    def _with_noise(self, lists: pa.Table, share: float) -> pa.Table:
        """Each place of a negative is, with probability ``share``, given to an exact item that was
        not clicked.

        The item is one that the training days showed for this query, launched before the request,
        shown in it or not; where the query has no such item left, the negative stays. What share of
        the trained negatives is then relevant, together with the pseudo-negatives of the log
        itself, is :meth:`relevant_share`.
        """
        exact, born = self.relevant_rows(EXACT), self._created()
        rng = np.random.default_rng([7, round(share * 1000)])
        names = ("query", "ts", "positives", "negatives")
        found = []
        for query, ts, positives, negatives in zip(
            *(lists.column(n).to_pylist() for n in names), strict=True
        ):
            used = set(positives)
            spare = sorted(
                row for row in exact.get(query, ()) if row not in used and born[row] <= ts
            )
            spare = [spare[i] for i in rng.permutation(len(spare))]
            kept: list[int] = []
            for row, flip in zip(negatives, rng.random(len(negatives)) < share, strict=True):
                while spare and spare[-1] in used:
                    spare.pop()
                chosen = spare.pop() if flip and spare else row
                if chosen not in used:  # a negative that was moved up is not listed twice
                    used.add(chosen)
                    kept.append(chosen)
            found.append(kept)
        return _with_negatives(lists, found)

    def relevant_share(self, variant: str, n: int) -> float:
        """Share of exact items among the first ``n`` negatives of the training lists: the noise
        that is trained on.
        """
        kept = self.data(variant) / RELEVANT.format(n)
        if not kept.is_file():
            exact = self.relevant_rows(EXACT)
            table = pq.read_table(
                self.data(variant) / "lists.parquet", filters=[("split", "=", "train")]
            )
            queries, negatives = (
                table.column("query").to_pylist(),
                table.column("negatives").to_pylist(),
            )
            hits = total = 0
            for query, rows in zip(queries, negatives, strict=True):
                good = exact.get(query, ())
                hits += sum(row in good for row in rows[:n])
                total += len(rows[:n])
            kept.write_text(json.dumps(hits / max(total, 1)) + "\n")
        return float(json.loads(kept.read_text()))

    def _created(self) -> np.ndarray:
        """(N,) µs of each row's launch."""
        from sidar.data import open_dataset

        created = open_dataset(self.data()).catalogue.table.column("created")
        return np.asarray(pc.fill_null(created.cast(pa.int64()), 0))

    def pseudo_negatives(self) -> dict[str, set[int]]:
        """request_id → rows that were shown, not clicked, and exact for the query."""
        truth = pq.read_table(
            self.truth,
            columns=["request_id", "item_id", "pseudo_negative"],
            filters=[("pseudo_negative", "=", True)],
        )
        return self._by(truth.column("request_id").to_pylist(), truth.column("item_id").to_pylist())

    def relevant_rows(self, grade: float) -> dict[str, set[int]]:
        """query text → rows of ``grade`` or better for it, among all that the *training days*
        showed for it.
        """
        columns = ["request_id", "query"]
        queries = pq.read_table(
            self.data() / "requests.parquet", columns=columns, filters=[("split", "=", "train")]
        )
        of = dict(zip(*(queries.column(name).to_pylist() for name in columns), strict=True))
        truth = pq.read_table(
            self.truth,
            columns=["request_id", "item_id", "relevance"],
            filters=[("relevance", ">=", grade - 1e-6)],
        )
        requests, items = (
            truth.column("request_id").to_pylist(),
            truth.column("item_id").to_pylist(),
        )
        known = [
            (of[request], item)
            for request, item in zip(requests, items, strict=True)
            if request in of
        ]
        return self._by([query for query, _ in known], [item for _, item in known])

    def _by(self, keys: list[str], items: list[str]) -> dict[str, set[int]]:
        from sidar.data import open_dataset

        row_of = {
            item: row for row, item in enumerate(open_dataset(self.data()).catalogue.item_ids)
        }
        found: dict[str, set[int]] = {}
        for key, item in zip(keys, items, strict=True):
            found.setdefault(key, set()).add(row_of[item])
        return found

    # ------------------------------------------------------------------ what identifies it

    def identity(self, variant: str, sizes: str) -> dict[str, str]:
        """Hashes that a cell's JSON carries: simulator, words, lists, SIDs."""
        report = json.loads((self.inputs / "simulator.json").read_text())
        return {
            "simulator": report["config_hash"],
            "lexicon": report["lexicon_hash"],
            "lists": sha256_file(self.data(variant) / "lists.parquet"),
            "sids": sha256_file(self.sid(sizes) / "sids.parquet"),
        }


def _with_negatives(lists: pa.Table, found: list[list[int]]) -> pa.Table:
    """``lists`` with other negatives; their positions are unknown (0)."""
    at = lists.column_names.index("negatives")
    lists = lists.set_column(
        at, lists.schema.field(at), pa.array(found, lists.schema.field(at).type)
    )
    at = lists.column_names.index("negative_positions")
    unknown = pa.array([[0] * len(rows) for rows in found], lists.schema.field(at).type)
    return lists.set_column(at, lists.schema.field(at), unknown)
