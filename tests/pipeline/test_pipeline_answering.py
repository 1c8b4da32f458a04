"""What the stage ``answer`` reads of a log, and the rows that stand for what a shop has."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reference_answer as slow
from toy_stages import build_shop, config

from sidar.answer.facts import read_facts
from sidar.answer.memory import Memory, MemoryFacts, key_check, query_key
from sidar.baselines import fuse
from sidar.baselines.fusion import simplex
from sidar.config import HeldOutConfig
from sidar.data import build, open_dataset, toy
from sidar.data.cleaning.normalise import normalise_query
from sidar.evaluate.measures.metrics import objective
from sidar.pipeline import stages
from sidar.pipeline.rows.answer_log import read_log
from sidar.pipeline.rows.answer_rows import AnswerRows, CandidatePrior, MemorySystem
from sidar.pipeline.rows.answering import answer
from sidar.pipeline.rows.memory_row import (
    HALF_LIVES,
    MemoryFirst,
    MemoryRow,
    best_half_life,
    fit_memory_row,
)
from sidar.pipeline.runtime import folders
from sidar.types import Hits, Prompt

SECRET = b"secret"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answering")
    toy.write_inputs(folder / "inputs")
    return folder


def log_of(folder, name, **split):
    cfg = config(folder / "inputs", split=split)
    build(cfg, folder / name)
    return read_log(cfg, folder / name, SECRET, folder / ".work"), open_dataset(folder / name)


def requests_of(data, *splits):
    day = 86_400_000_000
    for split in splits:
        for request in data.requests(split):
            chosen = dict(zip(request.rows, request.actions, strict=True))
            yield (
                request.request_id,
                (
                    request.user_id or request.request_id,
                    request.prompt.query,
                    request.ts // day,
                    chosen,
                ),
            )


def test_the_answer_is_fitted_to_the_validation_day_with_the_counts_of_the_days_before(inputs):
    log, data = log_of(inputs, "days")
    assert log.asked.held_out
    valid = {request.request_id for request in data.requests("valid")}
    assert set(log.asked.ids) <= valid
    train = [one for _, one in requests_of(data, "train")]
    both = [one for _, one in requests_of(data, "train", "valid")]
    for memory, requests in ((log.before, train), (log.memory, both)):
        last = max(day for _, query, day, chosen in requests if query and any(chosen.values()))
        assert memory.facts.last_day == last
        want = slow.memory_counts(requests, normalise_query, 5.0, last)
        for query in {query for _, query, _, _ in requests if normalise_query(query)}:
            rows, counts = memory.counts(query, SECRET, 5.0)
            found = want.get(normalise_query(query), {})
            assert dict(zip(rows.tolist(), counts.tolist(), strict=True)) == pytest.approx(found)


def test_what_is_known_of_each_fitting_request(inputs):
    log, data = log_of(inputs, "days")
    half_life = 3.0
    decay = 2.0 ** (-log.chosen.ages / half_life)
    for r, prompt in enumerate(log.asked.prompts):
        rows, counts = log.before.counts(prompt.query, SECRET, half_life, data.catalogue.alive)
        assert log.chosen.total_counts[r] @ decay == pytest.approx(counts.sum())
        known = dict(zip(rows.tolist(), counts.tolist(), strict=True))
        for p in np.flatnonzero(log.asked.request == r):
            assert log.chosen.positive_counts[p] @ decay == pytest.approx(
                known.get(int(log.asked.row[p]), 0.0)
            )


def test_without_a_validation_window_each_request_is_left_out_of_its_own_counts(inputs):
    log, data = log_of(inputs, "no-valid", valid_days=0)
    assert not log.asked.held_out
    everything = list(requests_of(data, "train"))
    decay = 2.0 ** (-log.chosen.ages / 4.0)
    for r, (request_id, prompt) in enumerate(zip(log.asked.ids, log.asked.prompts, strict=True)):
        others = [one for name, one in everything if name != request_id]
        want = slow.memory_counts(others, normalise_query, 4.0, log.before.facts.last_day)
        found = want.get(normalise_query(prompt.query), {}) if normalise_query(prompt.query) else {}
        assert log.chosen.total_counts[r] @ decay == pytest.approx(sum(found.values()), abs=1e-6)


def test_without_a_query_text_no_weight_of_reranking_is_chosen(tmp_path):
    shop = build_shop(tmp_path)
    events = pq.read_table(shop / "inputs/events.parquet")
    place = events.schema.get_field_index("query")
    events = events.set_column(place, events.schema.field(place), pa.array([""] * len(events)))
    pq.write_table(events, shop / "inputs/events.parquet")
    cfg = config(shop / "inputs")
    cfg.runs, cfg.name, cfg.embed.model = str(tmp_path), ".", "hashing:32"
    cfg.decode.rerank, cfg.decode.fuse = "dense", "none"
    shutil.rmtree(shop / "data")
    build(cfg, shop / "data")
    inputs = folders(shop, ("data", "embed", "sid", "index", cfg.align.folder))
    for name, make in (("embed", stages.embed), ("index", stages.index)):
        (shop / name).mkdir()
        make(cfg, inputs, shop / name, tmp_path / "work")
    (shop / "answer").mkdir()
    report = answer(cfg, inputs, shop / "answer", tmp_path / "work")
    assert report["summary"] == "nothing fused; not reranked: no request to weigh the cosine on"
    assert read_facts(shop / "answer")["rerank"] is None


def memory_of(entries):
    table = pa.table(
        {
            "key": pa.array([query_key(query, SECRET) for query, *_ in entries], pa.uint64()),
            "row": [row for _, row, _ in entries],
            "day": [0] * len(entries),
            "weight": [float(weight) for *_, weight in entries],
            "users": [1] * len(entries),
        }
    )
    return Memory.of(table, MemoryFacts("l", 0, key_check(SECRET)))


def test_the_memory_row_is_counts_first_then_its_back_off():
    memory = memory_of(
        [("red shoe", 4, 1), ("red shoe", 2, 3), ("red shoe", 7, 1), ("red shoe", 9, 5)]
    )
    alive = np.ones(10, bool)
    alive[9] = False
    row = MemoryFirst(memory, SECRET, alive, float("inf"))
    backoff = Hits(np.array([[7, 5, 2, 1], [3, -1, -1, -1]], np.int32), np.ones((2, 4), np.float32))
    found = row.over([Prompt("Red shoe"), Prompt("hat")], backoff, 6)
    # most chosen first; of equal counts the one that the back-off ranks; then the back-off's others
    assert found.rows.tolist() == [[2, 7, 4, 5, 1, -1], [3, -1, -1, -1, -1, -1]]
    assert (np.diff(found.scores[0][:5]) < 0).all()


def test_the_prior_orders_what_the_other_channels_return():
    one = Hits(np.array([[3, 1]], np.int32), np.ones((1, 2), np.float32))
    two = Hits(np.array([[0, 3]], np.int32), np.ones((1, 2), np.float32))
    channel = CandidatePrior(np.array([0.5, 2.0, 9.0, 1.0]), [])
    assert channel.over([one, two]).rows.tolist() == [[1, 3, 0]]
    assert not channel.scored


def test_reranking_is_tuned_on_the_log_where_there_is_one():
    assert AnswerRows({}).tuning_of(["valid"], 64) == (["valid"], 64)


def test_the_half_life_of_the_memory_row_is_the_best_and_of_equals_the_longest(inputs):
    log, data = log_of(inputs, "days")
    nothing = Hits(
        np.full((len(log.asked), 1), -1, np.int32), np.zeros((len(log.asked), 1), np.float32)
    )
    asked = log.asked.eval_set(data.catalogue)
    worth = objective(asked, data.catalogue, "ndcg@10", relevant=0)
    none = Hits(np.full((len(asked), 1), -1, np.int32), np.zeros((len(asked), 1), np.float32))
    grid = (0.1, 1.0, float("inf"))
    rows = [MemoryFirst(log.before, SECRET, data.catalogue.alive, half_life) for half_life in grid]
    values = [worth(row.over(asked.prompts, none, 10)) for row in rows]
    found = best_half_life(log, nothing, data.catalogue, grid)
    assert found == max(zip(values, grid, strict=True))[1]


class Listed:
    """A channel of given results."""

    def __init__(self, name, hits):
        self.name, self._hits = name, hits

    def hits(self, prompts, k):
        return self._hits


def test_the_memory_row_is_tuned_as_a_whole_on_the_requests_of_the_answer(inputs):
    """Its weights and half-life are as good as any on the grid, with the counts in front."""
    log, data = log_of(inputs, "days")
    asked, catalogue = log.asked.eval_set(data.catalogue), data.catalogue
    rng = np.random.default_rng(0)
    orders = [
        np.argsort(rng.random((len(log.asked), 64)), axis=1).astype(np.int32) for _ in range(3)
    ]
    # the second has a chosen item first
    for request, row in zip(log.asked.request, log.asked.row, strict=True):
        place = int(np.flatnonzero(orders[1][request] == row)[0])
        orders[1][request, [0, place]] = orders[1][request, [place, 0]]
    channels = [
        Hits(rows, np.tile(np.arange(64, 0, -1, dtype=np.float32), (len(rows), 1)))
        for rows in orders
    ]
    chosen = fit_memory_row(log, channels, catalogue)
    worth = objective(asked, catalogue, "ndcg@10", relevant=0)
    named = [q for q, prompt in enumerate(log.asked.prompts) if prompt.query.strip()]
    some = [Hits(hits.rows[named], hits.scores[named]) for hits in channels]

    def value(half_life, method, weights):
        row = MemoryFirst(log.before, SECRET, catalogue.alive, half_life)
        return worth(row.over(asked.prompts, fuse(some, method, weights), 10))

    best = value(chosen.half_life, chosen.fusion.method, chosen.fusion.weights)
    assert chosen.fusion.weights[1] == max(chosen.fusion.weights)
    assert (
        best
        >= max(value(chosen.half_life, m, w) for m in ("rrf", "weighted") for w in simplex(3, 5))
        - 1e-9
    )
    assert best == max(value(h, chosen.fusion.method, chosen.fusion.weights) for h in HALF_LIVES)
    assert chosen.requests == len(asked)
    again = MemoryRow.read({"memory_row": chosen.to_json()})
    assert (again.half_life, again.fusion.method, again.fusion.weights) == (
        chosen.half_life,
        chosen.fusion.method,
        chosen.fusion.weights,
    )
    parts = [
        Listed(name, hits) for name, hits in zip(("bm25", "dense", "prior"), channels, strict=True)
    ]
    table = MemoryFirst(log.before, SECRET, catalogue.alive, chosen.half_life)
    served = MemorySystem(table, parts, chosen.fusion).hits(log.asked.prompts, 10)
    assert worth(Hits(served.rows[named], served.scores[named])) == pytest.approx(best)


def test_queries_that_are_held_out_are_neither_counted_nor_fitted_to(inputs):
    """The data stage leaves them in the validation window; the answer must not learn what was
    clicked for them.
    """
    log, _ = log_of(inputs, "days")
    query = next(prompt.query for prompt in log.asked.prompts if prompt.query)
    (inputs / "held.tsv").write_text(f"query_id\tquery\n1\t{query.upper()}\n")
    cfg = config(inputs / "inputs")
    cfg.data.held_out = [HeldOutConfig(queries=str(inputs / "held.tsv"), match="exact")]
    build(cfg, inputs / "held")
    assert any(
        request.prompt.query == query for request in open_dataset(inputs / "held").requests("valid")
    )
    without = read_log(cfg, inputs / "held", SECRET, inputs / ".work")
    assert query not in {prompt.query for prompt in without.asked.prompts}
    assert len(log.memory.counts(query, SECRET)[0])
    assert not len(without.memory.counts(query, SECRET)[0])
    assert not len(without.before.counts(query, SECRET)[0])
    assert without.memory.n_queries == log.memory.n_queries - 1
