"""The stage ``answer``: count what was chosen, tune the lexical channel, and fit how all becomes one answer.

Everything is chosen on requests of the log's validation window, with counts and models of the days before; the files
that it leaves hold the counts of training and validation together, as a shop would have them on the next day.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sidar.answer.count import count_memory, without_request
from sidar.answer.fit import Chosen, Fit, fit_answer
from sidar.answer.key import FILE as KEY_FILE
from sidar.answer.key import find_or_make_key
from sidar.answer.memory import Memory
from sidar.answer.serving import GENERATIVE, params_of, read_facts, write_facts
from sidar.answer.smoothed import AnswerParams, Pooled, SmoothedMemory, popularity
from sidar.baselines import Bm25, fuse
from sidar.config import Config
from sidar.data import open_dataset
from sidar.data.duck import Duck, text
from sidar.data.priors import Priors
from sidar.data.propensity import Propensities, measure_propensities
from sidar.embed import Embedder
from sidar.evaluate.metrics import objective
from sidar.evaluate.systems import System, TextSystem
from sidar.types import Catalogue, EvalSet, Hits, Prompt

#: Queries that the lexical channel is tuned on.
TUNE = 256
DEPTH = 500


@dataclass(frozen=True)
class FittingRequests:
    """Requests with a choice: prompts, and the rows (P,) that each chose. ``held_out`` False = the models saw them."""

    ids: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    request: np.ndarray
    row: np.ndarray
    held_out: bool

    def __len__(self) -> int:
        return len(self.ids)

    def eval_set(self, catalogue: Catalogue, most: int | None = None) -> EvalSet:
        """The first ``most`` requests that have a query text, as a set whose relevant items are the chosen ones."""
        ids = catalogue.item_ids
        chosen: list[dict[str, float]] = [{} for _ in self.ids]
        for request, row in zip(self.request.tolist(), self.row.tolist(), strict=True):
            chosen[request][ids[row]] = 1.0
        named = [q for q, prompt in enumerate(self.prompts) if prompt.query.strip()][:most]
        keys = tuple(self.ids[q] for q in named)
        qrels = {self.ids[q]: chosen[q] for q in named}
        return EvalSet("validation requests", keys, tuple(self.prompts[q] for q in named), qrels, "log")


def fitting_requests(duck: Duck, requests: Path, alive: np.ndarray, most: int) -> FittingRequests:
    """Return at most ``most`` requests with a choice of the validation window, by hash; without one, training ones."""
    for split in ("valid", "train"):
        table = duck.table(
            f"""SELECT request_id, query, history, profile,
                    list_filter(range(1, len(rows) + 1), lambda i: actions[i] > 0) AS places, rows
                FROM read_parquet({text(requests)})
                WHERE split = '{split}' AND list_max(actions) > 0 AND (query <> '' OR len(history) > 0)
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
    asked: FittingRequests, memory: Memory, secret: bytes, alive: np.ndarray, taken: Mapping[str, dict] | None = None
) -> Chosen:
    """Look up the counts by age that were known for each request and each of its positives.

    ``taken``: what each request itself added, {request_id: {(row, day): weight}}, subtracted for it.
    """
    last = memory.facts.last_day
    ages = np.unique(np.maximum(last - memory.days, 0)) if len(memory) else np.zeros(1, np.int64)
    totals = np.zeros((len(asked), len(ages)))
    counts = np.zeros((len(asked.row), len(ages)))
    starts = np.searchsorted(asked.request, np.arange(len(asked) + 1))
    for r, prompt in enumerate(asked.prompts):
        at = memory.entries(prompt.query, secret)
        rows, days, weights = memory.rows[at], memory.days[at], memory.weights[at].astype(np.float64)
        own = (taken or {}).get(asked.ids[r], {})
        if own:
            weights = weights - [own.get((int(i), int(d)), 0.0) for i, d in zip(rows, days, strict=True)]
        live = alive[rows]
        rows, weights = rows[live], np.maximum(weights[live], 0.0)
        age = np.searchsorted(ages, np.maximum(last - days[live], 0))
        np.add.at(totals[r], age, weights)
        for p in range(starts[r], starts[r + 1]):
            same = rows == asked.row[p]
            np.add.at(counts[p], age[same], weights[same])
    return Chosen(asked.request, asked.row, counts, totals, ages.astype(np.float64))


class AnswerSystem:
    """The served answer as a row: the channels' results and the memory as one distribution (sidar.answer.smoothed)."""

    kind = "fusion"

    def __init__(self, name: str, channels: Mapping[str, System], model: SmoothedMemory, about: str = "") -> None:
        self.name, self.about = name, about
        self._channels, self._model = dict(channels), model

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        found = {name: channel.hits(prompts, DEPTH) for name, channel in self._channels.items()}
        return self._model.rank([prompt.query for prompt in prompts], found, k).hits


class MemoryFirst:
    """The click table as a row: what was chosen for the query by falling count, then the ranking of ``backoff``."""

    name = "memory"
    kind = "baseline"

    def __init__(
        self, memory: Memory, secret: bytes, alive: np.ndarray, half_life: float, of: str = "bm25+dense+prior"
    ) -> None:
        self._memory, self._secret, self._alive, self.half_life, self.of = memory, secret, alive, half_life, of

    @property
    def about(self) -> str:
        return f"what was chosen for the query, half-life {self.half_life:g} days, then the tuned {self.of}"

    def over(self, prompts: Sequence[Prompt], backoff: Hits, k: int) -> Hits:
        """Return the counted items of each prompt's query, then those of ``backoff`` that are not among them."""
        rows = np.full((len(prompts), k), -1, np.int32)
        for q, prompt in enumerate(prompts):
            known, counts = self._memory.counts(prompt.query, self._secret, self.half_life, self._alive)
            place = {int(row): at for at, row in enumerate(backoff.rows[q].tolist()) if row >= 0}
            last = len(place)
            # equal counts in the order of the back-off, then by row
            order = sorted(range(len(known)), key=lambda i: (-counts[i], place.get(int(known[i]), last), known[i]))
            first = known[order]
            rest = backoff.rows[q][(backoff.rows[q] >= 0) & ~np.isin(backoff.rows[q], first)]
            found = np.concatenate([first, rest])[:k]
            rows[q, : len(found)] = found
        scores = np.where(rows >= 0, np.arange(k, 0, -1), 0).astype(np.float32)
        return Hits(rows, scores)


class CandidatePrior:
    """Popularity as a channel of fusions: the items that the other channels return, by training popularity.

    It is no row of its own (``scored``): the row ``popularity`` is the same list for every query.
    """

    name = "prior"
    kind = "baseline"
    scored = False

    def __init__(self, prior: np.ndarray, channels: Sequence[System]) -> None:
        self._prior, self._channels = prior, channels

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        return self.over([channel.hits(prompts, DEPTH) for channel in self._channels])

    def over(self, found: Sequence[Hits]) -> Hits:
        """All items of ``found`` by falling prior, ties by lower row."""
        rows = Pooled.of(found).rows
        scores = np.where(rows >= 0, self._prior[np.maximum(rows, 0)], -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")
        ranked = np.take_along_axis(rows, order, 1).astype(np.int32)
        return Hits(ranked, np.where(ranked >= 0, np.take_along_axis(scores, order, 1), 0).astype(np.float32))


@dataclass
class AnswerRows:
    """The rows that stand for what a shop has and for what is served: ``systems`` and rows over the results of others.

    ``tune_on``: the requests on which weights of reranking were chosen for the served model, and are for the others.
    """

    systems: dict[str, System]
    composed: list[MemoryFirst]
    tune_on: EvalSet | None = None

    def tuning_of(self, valid: Sequence[EvalSet], most: int) -> tuple[Sequence[EvalSet], int]:
        """The sets to choose a weight of reranking on, and how many queries of each; ``valid`` without a log."""
        if self.tune_on is None or not len(self.tune_on):
            return valid, most
        return [self.tune_on], len(self.tune_on)


def answer_rows(
    cfg: Config, run: Path, systems: Mapping[str, System], embedder: Embedder, priors: Priors
) -> AnswerRows:
    """Make the rows ``answer``, ``answer-without-lm`` and ``memory``, and the channel ``prior``, as they are served.

    ``systems``: the other rows, of which the served model, reranked or not, is the answer's generative channel.
    """
    from sidar.pipeline.rerank import Reranked

    facts = read_facts(run / "answer")
    dataset = open_dataset(run / "data")
    catalogue = dataset.catalogue
    dense = next((name for name in ("dense", "dense-ivf") if name in systems), None)
    rows: dict[str, System] = {}
    if dense is not None:
        rows["prior"] = CandidatePrior(priors.prior, [systems["bm25"], systems[dense]])
    tune_on = None
    if facts["fuse"] != "none" or facts.get("rerank"):
        with Duck(run / ".answer-work", cfg.events.memory, cfg.threads) as duck:
            asked = fitting_requests(duck, run / "data" / "requests.parquet", catalogue.alive, cfg.memory.requests)
        shutil.rmtree(run / ".answer-work", ignore_errors=True)
        tune_on = asked.eval_set(catalogue)
    label = facts.get("label", "")
    served = systems.get(f"{label}+rerank")
    if facts.get("rerank") and isinstance(served, Reranked):
        served.weight = float(facts["rerank"]["weight"])
    if facts["fuse"] == "none":
        return AnswerRows(rows, [], tune_on)
    secret = run_key(cfg)
    memory = Memory.load(run / "answer").check(secret, catalogue.lineage, str(run / "answer"))
    lexical = TextSystem("bm25", Bm25.load(run / "answer"))
    base: dict[str, System] = {"bm25": lexical, "dense": dense_channel(cfg, run, embedder, catalogue.alive)}
    model = systems.get(f"{label}+rerank" if facts["reranked"] else label)

    def row(name: str, key: str, channels: Mapping[str, System]) -> AnswerSystem:
        params = params_of(facts, key)
        smoothed = SmoothedMemory(params, priors.clicks, catalogue.alive, memory, secret)
        return AnswerSystem(name, channels, smoothed, describe(params))

    if model is not None:  # the caller may score other models alone
        rows["answer"] = row("answer", "fit", {**base, GENERATIVE: model})
    rows["answer-without-lm"] = row("answer-without-lm", "without_generative", base)
    of = "+".join(("bm25", dense or "dense", "prior"))
    first = MemoryFirst(memory, secret, catalogue.alive, facts["memory_half_life"] or float("inf"), of)
    return AnswerRows(rows, [first], tune_on)


@dataclass(frozen=True)
class Log:
    """What the answer reads of a run's log: the memory for tomorrow, that of the days before, and requests to fit."""

    memory: Memory
    before: Memory
    asked: FittingRequests
    chosen: Chosen
    secret: bytes


def read_log(cfg: Config, data: Path, secret: bytes, work: Path) -> Log:
    """Count ``requests.parquet`` of the data folder and choose the requests that the answer is fitted to."""
    dataset = open_dataset(data)
    alive, lineage = dataset.catalogue.alive, dataset.catalogue.lineage
    requests = data / "requests.parquet"
    with Duck(work, cfg.events.memory, cfg.threads) as duck:
        weights = _propensities(duck, cfg, requests, dataset.report)
        memory = count_memory(duck, requests, ("train", "valid"), secret, lineage, propensities=weights)
        asked = fitting_requests(duck, requests, alive, cfg.memory.requests)
        if asked.held_out:
            before = count_memory(duck, requests, ("train",), secret, lineage, propensities=weights)
            chosen = chosen_of(asked, before, secret, alive)
        else:
            before = memory
            taken = _taken(without_request(duck, requests, ("train", "valid"), secret, asked.ids, weights).to_pylist())
            chosen = chosen_of(asked, before, secret, alive, taken)
    shutil.rmtree(work, ignore_errors=True)
    return Log(memory, before, asked, chosen, secret)


def _taken(records: Sequence[Mapping[str, Any]]) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for record in records:
        found.setdefault(record["request_id"], {})[record["row"], record["day"]] = record["weight"]
    return found


def _propensities(duck: Duck, cfg: Config, requests: Path, report: Mapping[str, Any]) -> Propensities | None:
    if cfg.memory.debias == "none":
        return None
    try:
        return measure_propensities(duck, requests, SimpleNamespace(actions=report["events"]["actions"]))
    except ValueError as error:
        raise ValueError(str(error).replace("preference.debias", "memory.debias")) from error


def run_key(cfg: Config) -> bytes:
    """The secret of the run's memory; made where there is none yet."""
    return find_or_make_key(cfg.memory.key_file or cfg.run_dir / KEY_FILE)


def fuses(cfg: Config, report: Mapping[str, Any]) -> bool:
    """Whether bundle and tables answer with the smoothed memory: asked for, or ``auto`` and the log has choices."""
    actions = report["events"]["actions"]
    chosen = sum(int(actions[name]) for name in ("click", "cart", "order"))
    if cfg.decode.fuse == "memory" and not chosen:
        raise ValueError(
            "decode.fuse is 'memory' but the log has no click, cart or order to remember; set decode.fuse to 'none'"
        )
    return cfg.decode.fuse == "memory" or (cfg.decode.fuse == "auto" and chosen > 0)


def tuned_lexical(lexical: Bm25, asked: FittingRequests, catalogue: Catalogue) -> Bm25:
    """Fields, weights and constants of BM25 by nDCG@10 of what the fitting requests chose."""
    some = asked.eval_set(catalogue, TUNE)
    if not len(some):
        return lexical
    return lexical.tune([prompt.query for prompt in some.prompts], objective(some, catalogue, "ndcg@10", relevant=0))


def fit(log: Log, channels: Mapping[str, System], counts: np.ndarray, alive: np.ndarray) -> Fit:
    """Fit the answer over ``channels`` to the log's requests; ``counts`` (N,) training clicks."""
    found = {name: channel.hits(log.asked.prompts, DEPTH) for name, channel in channels.items()}
    return fit_answer(found, log.chosen, popularity(counts, alive), int(alive.sum()))


def best_half_life(log: Log, backoff: Hits, catalogue: Catalogue, grid: Sequence[float]) -> float:
    """The half-life of the ``memory`` row: the highest nDCG@10 on the fitting requests, the longest of equals."""
    some = log.asked.eval_set(catalogue)
    if not len(some):
        return float("inf")  # a log of histories without queries remembers nothing
    named = [q for q, prompt in enumerate(log.asked.prompts) if prompt.query.strip()]
    ranked = Hits(backoff.rows[named], backoff.scores[named])
    worth = objective(some, catalogue, "ndcg@10", relevant=0)
    best, value = float("inf"), -1.0
    for half_life in sorted(grid, reverse=True):
        row = MemoryFirst(log.before, log.secret, catalogue.alive, half_life)
        got = worth(row.over(some.prompts, ranked, 10))
        if got > value:
            best, value = half_life, got
    return best


#: Half-lives in days that the row ``memory`` chooses from.
HALF_LIVES = (1.0, 2.0, 4.0, 7.0, 14.0, 30.0, 90.0, float("inf"))


def describe(params: AnswerParams) -> str:
    """The fitted constants in one line."""
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in params.weights.items())
    return f"kappa {params.kappa:.2g}, half-life {params.half_life:.1f} days, weights {weights}"


def answer(cfg: Config, run: Path, out: Path) -> dict[str, Any]:
    """Write ``memory.parquet``, the tuned BM25 and ``answer.json`` of the model of ``cfg.align`` into ``out``.

    With ``decode.rerank: dense`` the generative channel is reranked where the likelihood is higher so.  Without choices
    in the log, or with ``decode.fuse: none``, nothing is fused; a weight to rerank with is chosen all the same.
    """
    from sidar.embed import load_embedder, load_items, query_side
    from sidar.index import PrefixIndex
    from sidar.pipeline.generative import GenerativeSystem
    from sidar.pipeline.rerank import Reranked
    from sidar.pipeline.runtime import device
    from sidar.sid import load_sids

    dataset = open_dataset(run / "data")
    catalogue, priors = dataset.catalogue, dataset.priors()
    fused = fuses(cfg, dataset.report)
    if not fused and cfg.decode.rerank == "none":
        write_facts(out, {"fuse": "none"})
        return {"summary": "nothing to fuse: the model answers alone", "shapes": {"fuse": "none"}}
    log = read_log(cfg, run / "data", run_key(cfg), out / ".work")
    fused = fused and len(log.asked) > 0  # clicks without query and history ask for nothing that could be answered
    embedder = load_embedder(cfg.embed, device(cfg))
    sids = load_sids(run / "sid" / "sids.parquet", catalogue.item_ids)
    reader = query_side(embedder, cfg.sid.view).encode
    label, folder = cfg.align.label or cfg.align.objective, run / cfg.align.folder / "model"
    index = PrefixIndex.load(run / "index")
    model = GenerativeSystem(label, folder, index, sids, catalogue, cfg.decode, device(cfg), reader)
    candidates: list[System] = [model]
    rerank: dict[str, Any] | None = None
    if cfg.decode.rerank == "dense":
        row = Reranked(model, query_side(embedder).encode, load_items(run / "embed"))
        some = [part for part in (log.asked.eval_set(catalogue),) if len(part)]
        rerank = row.tune(some, catalogue, cfg.memory.requests)
        candidates.append(row)
    facts: dict[str, Any] = {
        "fuse": "memory" if fused else "none",
        "label": label,
        "rerank": rerank,
        "held_out": log.asked.held_out,
    }
    shapes = {"fuse": facts["fuse"], "requests": len(log.asked)}
    if not fused:
        write_facts(out, facts)
        return {"summary": f"nothing fused; reranked with weight {(rerank or {}).get('weight', 0):g}", "shapes": shapes}
    lexical = tuned_lexical(Bm25(catalogue), log.asked, catalogue)
    dense = dense_channel(cfg, run, embedder, catalogue.alive)
    base: dict[str, System] = {"bm25": TextSystem("bm25", lexical), "dense": dense}
    without = fit(log, base, priors.clicks, catalogue.alive)
    fits = [fit(log, {**base, GENERATIVE: each}, priors.clicks, catalogue.alive) for each in candidates]
    best = max(range(len(fits)), key=lambda i: fits[i].value)
    facts |= {
        "fit": fits[best].to_json(),
        "without_generative": without.to_json(),
        "reranked": best == 1,
        "log_likelihood": {each.name: one.value for each, one in zip(candidates, fits, strict=True)},
        "memory": {"queries": log.memory.n_queries, "entries": len(log.memory), **asdict(log.memory.facts)},
    }
    facts["memory_half_life"] = _memory_half_life(log, [*base.values()], priors.prior, catalogue)
    log.memory.save(out)
    lexical.save(out)
    write_facts(out, facts)
    return {"summary": "\n".join(_summary(cfg, log, fits[best], without, candidates[best].name)), "shapes": shapes}


def _memory_half_life(log: Log, channels: Sequence[System], prior: np.ndarray, catalogue: Catalogue) -> float | None:
    """The half-life of the row ``memory``; None = counts never fade."""
    found = [channel.hits(log.asked.prompts, DEPTH) for channel in channels]
    found.append(CandidatePrior(prior, channels).over(found))
    best = best_half_life(log, fuse(found), catalogue, HALF_LIVES)
    return best if np.isfinite(best) else None


def _summary(cfg: Config, log: Log, best: Fit, without: Fit, name: str) -> list[str]:
    """What the fit found, in words."""
    facts = log.memory.facts
    lines = [
        f"{log.memory.n_queries:,} queries remembered; {describe(best.params)}",
        f"log-likelihood of {best.requests:,} requests {best.value:.3f} with {name}, {without.value:.3f} without",
    ]
    if not log.asked.held_out:
        lines.append(
            "WARNING: there is no validation window, so the answer was fitted by leaving one training request out of "
            "the counts at a time; the model has seen these requests, and its weight may be too large"
        )
    if cfg.memory.debias == "ips":
        lines.append(f"counts weighted by inverse propensity: effective n {facts.effective_n:,.0f}")
    return lines


def dense_channel(cfg: Config, run: Path, embedder: Embedder, alive: np.ndarray) -> System:
    """The dense channel of the answer: the encoder of the run as it is, exact or through cells."""
    from sidar.pipeline.dense_rows import dense_rows

    rows = dense_rows(cfg, run, "embed", embedder, alive)
    return next(iter(rows.values()))
