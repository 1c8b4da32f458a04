"""From requests to training rows: multi-positive SFT examples and preference lists.

Both hold catalogue rows, never SIDs: SIDs are applied at packing, so a new SID table rewrites no
training data. Positives are all rows that the request clicked, carted or ordered, best tier first
(order 3, cart 2, click 1), inside a tier by position.  They are stored uncut, because only a
complete list says what must not become a negative; packing cuts them to ``max_positives``
(:func:`sidar.lm.candidates.to_candidates`).  Negatives were shown and not clicked in the same list,
best position first.  A request without query and without history has no prompt and is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidar.config import Config
from sidar.data.duck import Duck, text
from sidar.data.log import LogFacts
from sidar.data.training.priors import Priors
from sidar.data.training.propensity import DEEPEST, Propensities
from sidar.types import Json

#: Negatives stored per list, so that their number can be swept without building again; packing
#: cuts.
MAX_STORED_NEGATIVES = 32

_PROMPTED = "(query <> '' OR len(history) > 0)"
_PLACES = "range(1, len(rows) + 1)"
#: The largest known position of what a request clicked, carted or ordered; NULL where none is
#: known.
_LOWEST_CLICK = (
    f"list_max(list_transform(list_filter({_PLACES}, lambda i: actions[i] > 0), "
    "lambda i: positions[i]))"
)


def write_sft(duck: Duck, requests: Path, out: Path) -> int:
    """Write ``sft.parquet`` from the training requests, with all positives of each."""
    sql = f"""
        SELECT 'query' AS source, request_id, ts, query, history, profile,
        {_picked("rows", "INTEGER")} AS positives,
            {_picked("actions", "TINYINT")} AS tiers
        FROM ({_with_best(requests, "train")})"""
    with duck.in_order():
        return duck.export(sql, out)


def write_lists(
    duck: Duck,
    cfg: Config,
    requests: Path,
    facts: LogFacts,
    priors: Priors,
    out: Path,
    propensities: Propensities | None = None,
) -> int:
    """Write ``lists.parquet`` from the training and validation requests.

    ``preference.negatives``: ``shown`` takes what the list showed; ``skip_above`` only what it
    showed above its lowest choice, taken for passed over (Joachims 2005 [known]; a list clicked at
    the top alone ends up without negatives and trains SFT only); ``sampled`` draws items by their
    training popularity (seeded, independent of the number of shards); ``beam`` leaves negatives
    empty for the align stage.  ``propensities`` adds the column ``positive_weights`` (see
    :mod:`sidar.data.training.propensity`): unknown positions weigh the mean, 1, and so do all
    positives of the validation lists, so that validation means the same with and without.

    Raises ``ValueError`` for ``shown`` and ``skip_above`` on a log without impressions, and for
    ``skip_above`` without positions.
    """
    wanted = cfg.preference.negatives
    if wanted in ("shown", "skip_above") and not facts.actions["impression"]:
        raise ValueError(
            f"preference.negatives is {wanted!r} but the log has no impressions, so nothing says "
            "what was seen and passed over; "
            f"{f'{facts.unmapped}. Or ' if facts.unmapped else ''}set preference.negatives to "
            "'sampled' (by popularity) or 'beam' (the model's own mistakes)"
        )
    passed_over = "actions[i] = 0"
    if wanted == "skip_above":
        if not duck.row(
            f"SELECT coalesce(max(list_max(positions)), 0) FROM read_parquet({text(requests)})"
        )[0]:
            raise ValueError(
                "preference.negatives is 'skip_above' but the log has no positions, so nothing "
                "says what stood above a click; map the column in events.columns.position, or set "
                "preference.negatives to 'shown'"
            )
        passed_over += " AND positions[i] > 0 AND positions[i] < lowest_click"
    stored = MAX_STORED_NEGATIVES if wanted in ("shown", "skip_above") else 0
    places = f"list_filter({_PLACES}, lambda i: {passed_over})[:{stored}]"
    listed = _with_best(requests, "train', 'valid")
    source = f"SELECT *, {_LOWEST_CLICK} AS lowest_click FROM ({listed})"
    sql = f"""
        SELECT request_id, ts, split, query, history, profile, {_picked("rows", "INTEGER")}
        AS positives,
            {_picked("actions", "TINYINT")} AS tiers,
            list_transform({places}, lambda i: rows[i])::INTEGER[] AS negatives,
            list_transform({places}, lambda i: positions[i])::INTEGER[] AS negative_positions
            {_positive_weights(duck, source, propensities)}
        FROM ({source})"""
    if wanted != "sampled":
        with duck.in_order():
            return duck.export(sql, out)
    count = 0
    weights = priors.sampling_weights()
    drawing = f"SELECT *, md5_number_lower(request_id) AS draw FROM ({sql})"
    with duck.in_order(), duck.batches(drawing, rows=16_384) as reader:
        schema = reader.schema.remove(reader.schema.get_field_index("draw"))
        with pq.ParquetWriter(out, schema) as writer:
            for batch in reader:
                writer.write_batch(_sampled(batch, weights, cfg.seed).cast(schema))
                count += batch.num_rows
    return count


def _positive_weights(duck: Duck, source: str, propensities: Propensities | None) -> str:
    """SQL of the column ``positive_weights`` over ``source``, with a comma before; empty without
    propensities.
    """
    if propensities is None:
        return ""
    weights = propensities.weights()
    seen = duck.table(
        f"""SELECT least(positions[place], {DEEPEST}) AS position, count(*) AS n
            FROM (SELECT positions, unnest(best) AS place FROM ({source}) WHERE split = 'train')
            WHERE positions[place] > 0 GROUP BY 1"""
    )
    counts = np.bincount(
        seen.column("position").to_numpy(), seen.column("n").to_numpy(), minlength=DEEPEST + 1
    )
    # a mean of 1/p is at least 1
    weights = weights / max(float(weights @ counts) / max(counts.sum(), 1.0), 1.0)
    weights[0] = 1.0
    table = "[" + ", ".join(f"{w:.9g}" for w in weights) + "]"
    weight = (
        f"CASE WHEN split = 'train' THEN {table}[least(positions[i], {DEEPEST}) + 1] ELSE 1 END"
    )
    return f", list_transform(best, lambda i: {weight})::FLOAT[] AS positive_weights"


def sample_negatives(
    keys: np.ndarray, positives: pa.ListArray, weights: np.ndarray, count: int, seed: int
) -> pa.ListArray:
    """``count`` distinct items per list, drawn in proportion to ``weights``, none of them a
    positive.

    ``keys`` (n,) uint64 name the lists: equal keys and seeds draw alike, whatever else is in the
    batch.  ``weights`` (N,) ≥ 0.  Returns n lists of int32 in the order of the draws, shorter than
    ``count`` where 2·count draws ran into too many positives and repetitions (small or very skewed
    catalogues).
    """
    cumulative = np.cumsum(weights, dtype=np.float64)
    steps = np.arange(2 * count, dtype=np.uint64) + (np.uint64(seed) << np.uint64(32))
    # (n, 2·count) in [0, 1)
    uniform = (_mix(_mix(keys)[:, None] ^ _mix(steps)) >> np.uint64(11)) * 2.0**-53
    rows = np.searchsorted(cumulative, uniform * cumulative[-1], side="right").astype(np.int32)

    order = np.argsort(rows, axis=1, kind="stable")
    ranked = np.take_along_axis(rows, order, axis=1)
    taken = np.zeros(rows.shape, dtype=bool)
    again = np.zeros(rows.shape, dtype=bool)
    again[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    np.put_along_axis(taken, order, again, axis=1)  # True where the same row was drawn before

    taken |= _is_positive(rows, positives, len(weights))
    kept = ~taken
    kept &= np.cumsum(kept, axis=1) <= count
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, rows[kept])


def _is_positive(rows: np.ndarray, positives: pa.ListArray, n_items: int) -> np.ndarray:
    """(n, m) bool: is the item in ``rows`` (n, m) one of list i's positives; time and memory follow
    their number.

    A list and an item are one number, list · n_items + item, so that lists of any length need no
    padding.
    """
    lengths = np.diff(positives.offsets.to_numpy())
    owner = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    clicked = owner * n_items + positives.flatten().to_numpy()
    drawn = np.arange(len(rows), dtype=np.int64)[:, None] * n_items + rows
    return np.isin(drawn, clicked)


def _sampled(batch: pa.RecordBatch, weights: np.ndarray, seed: int) -> pa.RecordBatch:
    keys = batch.column("draw").to_numpy().astype(np.uint64)
    drawn = sample_negatives(keys, batch.column("positives"), weights, MAX_STORED_NEGATIVES, seed)
    columns = {n: batch.column(n) for n in batch.schema.names if n != "draw"}
    columns["negatives"] = drawn
    unknown = np.zeros(len(drawn.values), dtype=np.int32)
    columns["negative_positions"] = pa.ListArray.from_arrays(drawn.offsets, unknown)
    return pa.RecordBatch.from_pydict(columns)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: uint64 → uint64, every bit of the input moves every bit of the
    output.
    """
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _with_best(requests: Path, splits: str) -> str:
    """Requests of ``splits`` that have positives and a prompt, with ``best``: places of all
    positives, best first.
    """
    tiers = ", ".join(
        f"list_filter({_PLACES}, lambda i: actions[i] = {tier})" for tier in (3, 2, 1)
    )
    return f"""SELECT * FROM (SELECT *, flatten([{tiers}]) AS best
        FROM read_parquet({text(requests)})
        WHERE split IN ('{splits}') AND {_PROMPTED}) WHERE len(best) > 0"""


def why_cut(data: Path, config: Json) -> str | None:
    """Why a data folder of an older version must be built again, in words; None for a folder of
    today or as good as.

    Older versions cut positives when they stored them, at the caps that their manifest's ``config``
    names. A list that reaches its cap may have lost a clicked item; where none does, the files are
    what today's version would write.
    """
    for key, name in (
        ("sft.max_positives", "sft.parquet"),
        ("preference.max_positives", "lists.parquet"),
    ):
        path = data / name
        if key not in config or not path.is_file():
            continue
        lengths = pc.list_value_length(
            pq.read_table(path, columns=["positives"]).column("positives")
        )
        if (pc.max(lengths).as_py() or 0) >= config[key]:
            return (
                f"an older version cut the positives in {name} at {key}, so clicked items may "
                "be negatives"
            )
    return None


def _picked(column: str, kind: str) -> str:
    return f"list_transform(best, lambda i: {column}[i])::{kind}[]"
