"""What the answer reads of a log: the memory, the memory of the days before, and requests to fit
its constants to.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from sidar.answer.count import count_memory, without_request
from sidar.answer.fit import Chosen
from sidar.answer.key import FILE as KEY_FILE
from sidar.answer.key import find_or_make_key
from sidar.answer.memory import Memory
from sidar.config import Config, HeldOutConfig
from sidar.data import open_dataset
from sidar.data.duck import Duck, text
from sidar.data.judgments.heldout import hold_out
from sidar.data.judgments.judged import read_held_out
from sidar.data.training.propensity import Propensities, measure_propensities
from sidar.types import Catalogue, EvalSet, Json, Prompt


@dataclass(frozen=True)
class FittingRequests:
    """Requests with a choice: prompts, and the rows (P,) that each chose.

    ``held_out`` False = the models saw them.  ``source``: the log, or without one the judged set or
    the pseudo-queries that stand for it.
    """

    ids: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    request: np.ndarray
    row: np.ndarray
    held_out: bool
    source: str = "log"

    def __len__(self) -> int:
        return len(self.ids)

    def eval_set(self, catalogue: Catalogue, most: int | None = None) -> EvalSet:
        """The first ``most`` requests that have a query text, as a set whose relevant items are the
        chosen ones.
        """
        ids = catalogue.item_ids
        chosen: list[dict[str, float]] = [{} for _ in self.ids]
        for request, row in zip(self.request.tolist(), self.row.tolist(), strict=True):
            chosen[request][ids[row]] = 1.0
        named = [q for q, prompt in enumerate(self.prompts) if prompt.query.strip()][:most]
        keys = tuple(self.ids[q] for q in named)
        qrels = {self.ids[q]: chosen[q] for q in named}
        return EvalSet(
            "validation requests", keys, tuple(self.prompts[q] for q in named), qrels, "log"
        )


def usable_requests(duck: Duck, data: Path) -> Path:
    """Return the requests of a data folder without those of held-out queries, which are neither
    counted nor fitted to.

    The data stage keeps them out of training alone; which files it held out stands beside its sets.
    """
    requests, listed = data / "requests.parquet", data / "eval" / "held_out.json"
    if not listed.is_file():  # a folder of an older version
        return requests
    held: dict[str, list[str]] = {"near": [], "exact": []}
    for each in json.loads(listed.read_text()):
        if Path(each["queries"]).exists():
            one = HeldOutConfig(**each)
            held[one.match] += read_held_out(one)
    source = f"read_parquet({text(requests)})"
    if not hold_out(duck, source, held["near"], held["exact"]):
        return requests
    kept = duck.new_file()
    with duck.in_order():
        duck.export(f"SELECT * FROM {source} ANTI JOIN held_out USING (query)", kept)
    return kept


def fitting_requests(duck: Duck, requests: Path, alive: np.ndarray, most: int) -> FittingRequests:
    """Return at most ``most`` requests with a choice of the validation window, by hash; without
    one, training ones.
    """
    for split in ("valid", "train"):
        table = duck.table(
            f"""SELECT request_id, query, history, profile,
                    list_filter(range(1, len(rows) + 1), lambda i: actions[i] > 0) AS places, rows
                FROM read_parquet({text(requests)})
                WHERE split = '{split}' AND list_max(actions) > 0
                AND (query <> '' OR len(history) > 0)
                QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY user_id) = 1
                ORDER BY md5(request_id), request_id LIMIT {most}"""
        ).to_pylist()
        if table:
            break
    ids: list[str] = []
    prompts: list[Prompt] = []
    request: list[int] = []
    row: list[int] = []
    for record in table:
        chosen = [record["rows"][place - 1] for place in record["places"]]
        chosen = [r for r in chosen if alive[r]]
        if chosen:
            request += [len(ids)] * len(chosen)
            row += chosen
            ids.append(record["request_id"])
            prompts.append(Prompt(record["query"], tuple(record["history"]), record["profile"]))
    chose, item = np.asarray(request, np.int64), np.asarray(row, np.int64)
    return FittingRequests(tuple(ids), tuple(prompts), chose, item, held_out=split == "valid")


def chosen_of(
    asked: FittingRequests,
    memory: Memory,
    secret: bytes,
    alive: np.ndarray,
    taken: Mapping[str, dict] | None = None,
) -> Chosen:
    """Look up the counts by age that were known for each request and each of its positives.

    ``taken``: what each request itself added, {request_id: {(row, day): weight}}, subtracted for
    it.
    """
    last = memory.facts.last_day
    ages = np.unique(np.maximum(last - memory.days, 0)) if len(memory) else np.zeros(1, np.int64)
    totals = np.zeros((len(asked), len(ages)))
    counts = np.zeros((len(asked.row), len(ages)))
    starts = np.searchsorted(asked.request, np.arange(len(asked) + 1))
    for r, prompt in enumerate(asked.prompts):
        at = memory.entries(prompt.query, secret)
        rows, days, weights = (
            memory.rows[at],
            memory.days[at],
            memory.weights[at].astype(np.float64),
        )
        own = (taken or {}).get(asked.ids[r], {})
        if own:
            weights = weights - [
                own.get((int(i), int(d)), 0.0) for i, d in zip(rows, days, strict=True)
            ]
        live = alive[rows]
        rows, weights = rows[live], np.maximum(weights[live], 0.0)
        age = np.searchsorted(ages, np.maximum(last - days[live], 0))
        np.add.at(totals[r], age, weights)
        for p in range(starts[r], starts[r + 1]):
            same = rows == asked.row[p]
            np.add.at(counts[p], age[same], weights[same])
    return Chosen(asked.request, asked.row, counts, totals, ages.astype(np.float64))


@dataclass(frozen=True)
class Log:
    """What the answer reads of a run's log: the memory for tomorrow, that of the days before, and
    requests to fit.
    """

    memory: Memory
    before: Memory
    asked: FittingRequests
    chosen: Chosen
    secret: bytes


def read_log(
    cfg: Config, data: Path, secret: bytes, work: Path, asked: FittingRequests | None = None
) -> Log:
    """Count ``requests.parquet`` of the data folder and choose the requests that the answer is
    fitted to; ``asked`` are these where there is no log.
    """
    dataset = open_dataset(data)
    alive, lineage = dataset.catalogue.alive, dataset.catalogue.lineage
    with Duck(work, cfg.events.memory, cfg.threads) as duck:
        requests = usable_requests(duck, data)
        weights = _propensities(duck, cfg, requests, dataset.report)
        memory = count_memory(
            duck, requests, ("train", "valid"), secret, lineage, propensities=weights
        )
        asked = asked or fitting_requests(duck, requests, alive, cfg.memory.requests)
        if asked.held_out:
            before = count_memory(duck, requests, ("train",), secret, lineage, propensities=weights)
            chosen = chosen_of(asked, before, secret, alive)
        else:
            before = memory
            taken = _taken(
                without_request(
                    duck, requests, ("train", "valid"), secret, asked.ids, weights
                ).to_pylist()
            )
            chosen = chosen_of(asked, before, secret, alive, taken)
    shutil.rmtree(work, ignore_errors=True)
    return Log(memory, before, asked, chosen, secret)


def _taken(records: Sequence[Json]) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for record in records:
        found.setdefault(record["request_id"], {})[record["row"], record["day"]] = record["weight"]
    return found


def _propensities(duck: Duck, cfg: Config, requests: Path, report: Json) -> Propensities | None:
    if cfg.memory.debias == "none":
        return None
    try:
        return measure_propensities(
            duck, requests, SimpleNamespace(actions=report["events"]["actions"])
        )
    except ValueError as error:
        raise ValueError(str(error).replace("preference.debias", "memory.debias")) from error


def run_key(cfg: Config) -> bytes:
    """The secret of the run's memory; made where there is none yet."""
    return find_or_make_key(cfg.memory.key_file or cfg.run_dir / KEY_FILE)
