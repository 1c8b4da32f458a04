"""The SID stage: vectors → codebooks, table, quality report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidar.artifacts import continues
from sidar.config import Config, SidConfig
from sidar.precision import resolve_device
from sidar.sid.fit_report import describe_fit, spoken
from sidar.sid.inputs import query_inputs
from sidar.sid.lifecycle.continued import check_encoder, check_settings
from sidar.sid.lifecycle.ledger import Ledger, write_up
from sidar.sid.lifecycle.reference import load_reference, make_reference, save_reference
from sidar.sid.lifecycle.refresh import Refreshed, refresh
from sidar.sid.picture import draw
from sidar.sid.plugin_checks import check_reload, check_sids
from sidar.sid.quality import count_distinct, report
from sidar.sid.recall import quantised_recall
from sidar.sid.recall import spoken as recalled
from sidar.sid.sizes import ENOUGH, WORTH, auto_codebook_sizes, halving, is_better, is_far
from sidar.sid.table import load_sids, save_sids, table_version
from sidar.sid.tokenizer import (
    Tokenizer,
    checked_vectors,
    load_tokenizer,
    tokenizer_class,
    wants_queries,
)
from sidar.types import Json, PathLike, SemanticIds, SidInputs

if TYPE_CHECKING:
    from sidar.data.dataset import Dataset

_MAX_PAIRS = 200_000
#: Positives of one list that the report counts pairs of.
_MAX_POSITIVES = 8
_MAX_SIZES_TRIED = 4
_MAX_DOUBLINGS = 2


def fit_catalogue(
    config: SidConfig,
    inputs: SidInputs,
    seed: int,
    device: str = "cpu",
    work: Path | None = None,
    recall: dict[str, Json] | None = None,
) -> tuple[Tokenizer, SemanticIds, dict[str, float]]:
    """Fitted tokenizer, SIDs of all rows of ``inputs``, and the sizes that were tried with their
    items per SID.

    With ``codebook_sizes: null`` the sizes come from the number of items; if the data then have an
    excess over one item per SID (identical vectors aside, which no size can part) that is off by
    more than a factor of four, all levels are doubled or halved until it is not, or until the next
    size would be further off. Where quantised dense then keeps too few of the near items
    (:data:`~sidar.sid.sizes.ENOUGH`), all levels are doubled up to twice while that gains enough
    (:data:`~sidar.sid.sizes.WORTH`). A training keeps what a kill would lose in ``work``, by method
    and sizes. ``recall`` receives what quantised dense finds at each of the sizes.
    """
    recall = {} if recall is None else recall

    @cache
    def attempt(sizes: tuple[int, ...]) -> tuple[Tokenizer, SemanticIds, float, float]:
        tokenizer = tokenizer_class(config.method).from_config(config, sizes, seed, device)
        trained = tokenizer.trained_part()
        if trained is not None and work is not None:
            trained.work, trained.progress = work / config.method / "-".join(map(str, sizes)), True
        tokenizer.fit(inputs)
        sids = tokenizer.encode_catalogue(inputs)
        check_sids(tokenizer, sids, inputs)
        found = tokenizer.n_fixed_sids_ or len(np.unique(sids.codes, axis=0))
        recall[_name(sids)] = kept = _recall(inputs, sids, tokenizer, seed)
        return tokenizer, sids, distinct / found, kept.get("neighbours", 1.0)

    distinct = count_distinct(inputs.vectors)
    sizes = tuple(
        config.codebook_sizes or auto_codebook_sizes(distinct, config.levels, config.items_per_sid)
    )
    best = attempt(sizes)
    tried = {_name(best[1]): best[2]}
    fixed = config.codebook_sizes is not None or config.balance_last
    free = not fixed and not best[0].has_own_sizes
    while free and len(tried) < _MAX_SIZES_TRIED and is_far(best[2], config.items_per_sid):
        first = best[1].codebook_sizes[0]
        first = first * 2 if best[2] > config.items_per_sid else first // 2
        if not 2 <= first <= max(2, distinct // 2):
            break
        other = attempt(halving(first, config.levels))
        tried[_name(other[1])] = other[2]
        if not is_better(other[2], best[2], config.items_per_sid):
            break
        best = other
    for _ in range(_MAX_DOUBLINGS if free and best[0].keeps_vectors else 0):
        larger = halving(2 * best[1].codebook_sizes[0], config.levels)
        if best[3] >= ENOUGH or sum(larger) > distinct:
            break
        other = attempt(larger)
        tried[_name(other[1])] = other[2]
        if other[3] < best[3] + WORTH:
            break
        best = other
    return best[0], best[1], tried


@dataclass(frozen=True)
class Items:
    """What the stage gives SIDs to: the vectors (N, D) of a catalogue, its live rows (n,), and what
    a tokenizer may look at of these.
    """

    data: Dataset
    vectors: np.ndarray
    rows: np.ndarray
    inputs: SidInputs


@dataclass(frozen=True)
class Assigned:
    """SIDs of the live items ``inputs``, and what was learnt on the way.

    ``tried``: items per SID by sizes tried; ``recall``: what quantised dense finds at each.
    """

    tokenizer: Tokenizer
    inputs: SidInputs
    today: Refreshed
    reference: Json | None
    tried: dict[str, float] = field(default_factory=dict)
    recall: dict[str, Json] = field(default_factory=dict)


def build(
    cfg: Config,
    data_folder: PathLike,
    embed_folder: PathLike,
    out: PathLike,
    *,
    device: str | None = None,
    work: Path | None = None,
) -> Json:
    """Write ``sids.parquet``, tokenizer, ledger, reference, ``quality.json`` and ``quality.png``
    into ``out``.

    A tokenizer that is trained also leaves ``fit.jsonl`` and ``fit.png``, and keeps interrupted
    work in ``work``; one that knows queries gets those of training days (sid/inputs.py).

    Tombstones keep no SID. A warm start keeps the codebooks and most SIDs
    (sid/lifecycle/refresh.py). ``ValueError`` when the vectors belong to another catalogue or no
    item is left.
    """
    items = _read_items(cfg, Path(data_folder), embed_folder)
    before = Path(cfg.warm_start) / "sid" if cfg.warm_start else None
    if before is not None:
        assigned = _continue(cfg, items, before, Path(embed_folder))
    else:
        on = device or resolve_device(cfg.device)
        assigned = _fit(cfg, items, embed_folder, on, work)
    sids = _of_catalogue(assigned.today.sids, items)
    out = Path(out)
    _write(out, items, assigned, sids, is_fitted=before is None)
    quality, fit = _quality(cfg, items, assigned, sids, out)
    summary = (
        f"{quality['sids']:,} SIDs of {_name(sids)} for {quality['items']:,} items "
        f"({quality['items_per_sid']:.2f} per SID, {quality['collision_rate']:.0%} share theirs)"
    )
    summary += recalled(quality["quantised_dense"])
    shapes: Json = {
        "codes": list(sids.codes.shape),
        "codebook_sizes": list(sids.codebook_sizes),
        "version": sids.version,
    }
    if before is not None:
        changes = assigned.today.counts
        shapes |= {"continues": continues(before), "changes": changes}
        moved = sum(changes.get(cause, 0) for cause in ("text", "category", "tokenizer"))
        summary += f"; codebooks kept, {changes.get('new', 0):,} new items, {moved:,} moved"
    summary += spoken(fit)
    return {"summary": summary, "shapes": shapes, "quality": quality}


def _read_items(cfg: Config, data_folder: Path, embed_folder: PathLike) -> Items:
    """Open catalogue and vectors; ``ValueError`` where they do not fit or no item is left."""
    from sidar.data import open_dataset
    from sidar.embed import load_items

    data = open_dataset(data_folder)
    catalogue, vectors = data.catalogue, load_items(embed_folder, cfg.sid.view)
    if len(vectors) != len(catalogue):
        raise ValueError(
            f"{embed_folder} has {len(vectors)} vectors, the catalogue {len(catalogue)} items; "
            "run `sidar embed` again"
        )
    # here, where a row is a catalogue row
    checked_vectors(SidInputs(vectors, item_ids=catalogue.item_ids.tolist()))
    rows = np.flatnonzero(catalogue.alive)
    if not len(rows):
        raise ValueError(
            "the catalogue has no items, so there is nothing to give SIDs to; see `sidar validate`"
        )
    categories = catalogue.column("category")
    inputs = SidInputs(
        vectors=vectors if len(rows) == len(vectors) else vectors[rows],
        categories=[categories[row] or () for row in rows],
        counts=data.priors().clicks[rows],
        item_ids=catalogue.item_ids[rows].tolist(),
    )
    return Items(data, vectors, rows, inputs)


def _continue(cfg: Config, items: Items, before: Path, embed_folder: Path) -> Assigned:
    """Return SIDs by yesterday's codebooks: an SID keeps its meaning, and new items get theirs from
    the same codes.
    """
    check_encoder(before.parent / "embed", embed_folder)
    check_settings(before, cfg.sid)
    tokenizer = load_tokenizer(before)
    yesterday = load_sids(before / "sids.parquet", items.inputs.item_ids or ())
    ledger = Ledger.load(before)
    today = refresh(tokenizer, yesterday, ledger, items.inputs, margin=cfg.sid.keep_margin)
    return Assigned(tokenizer, items.inputs, today, load_reference(before))


def _fit(
    cfg: Config, items: Items, embed_folder: PathLike, device: str, work: Path | None
) -> Assigned:
    """Return SIDs by codebooks fitted to the catalogue, with the log's queries where asked for."""
    inputs, rows = items.inputs, items.rows
    if most := wants_queries(cfg.sid):
        sft = items.data.sft()
        vectors, pairs = query_inputs(
            sft, rows, most, cfg.embed, embed_folder, cfg.sid.view, device
        )
        inputs = replace(inputs, query_vectors=vectors, query_item_pairs=pairs)
    recall: dict[str, Json] = {}
    tokenizer, sids, tried = fit_catalogue(cfg.sid, inputs, cfg.seed, device, work, recall)
    today = Refreshed(sids, np.full(len(rows), "fit", object), np.ones(len(rows), bool))
    reference = make_reference(cfg.sid, tokenizer, sids, inputs, cfg.seed, device)
    return Assigned(tokenizer, inputs, today, reference, tried, recall)


def _of_catalogue(sids: SemanticIds, items: Items) -> SemanticIds:
    """Return the table over all rows of the catalogue, tombstones without an SID."""
    n_rows = len(items.vectors)
    codes = np.full((n_rows, sids.n_levels), -1, np.int32)
    lengths = np.zeros(n_rows, np.int32)
    codes[items.rows], lengths[items.rows] = sids.codes, sids.lengths
    table = SemanticIds(codes, lengths, sids.codebook_sizes, method=sids.method)
    return replace(table, version=table_version(table))


def _write(out: Path, items: Items, assigned: Assigned, sids: SemanticIds, is_fitted: bool) -> None:
    """Write tokenizer, table, ledger and reference."""
    tokenizer, today = assigned.tokenizer, assigned.today
    tokenizer.save(out)
    if is_fitted:
        check_reload(tokenizer, out, assigned.inputs)
    save_sids(out / "sids.parquet", items.data.catalogue.item_ids, sids)
    write_up(assigned.inputs, tokenizer, today.sids, today.fitted, today.cause).save(out)
    if assigned.reference is not None:
        save_reference(out, assigned.reference)


def _quality(
    cfg: Config, items: Items, assigned: Assigned, sids: SemanticIds, out: Path
) -> tuple[Json, Json]:
    """Write ``quality.json``, ``quality.png`` and the picture of a training; return the quality
    and what of it is the training's.
    """
    data, tokenizer, found = items.data, assigned.tokenizer, assigned.today.sids
    priors = data.priors()
    quality = report(
        sids,
        vectors=items.vectors,
        tokenizer=tokenizer,
        categories=data.catalogue.column("category"),
        pairs=preference_pairs(data.lists("train"), cfg.seed),
        classes=priors.popularity(),
        counts=priors.clicks,
        seed=cfg.seed,
    )
    recall = assigned.recall
    quality["sizes_tried"] = assigned.tried
    quality["quantised_dense"] = recall.get(_name(sids)) or _recall(
        assigned.inputs, found, tokenizer, cfg.seed
    )
    quality["sizes_recall"] = {name: kept.get("neighbours") for name, kept in recall.items()}
    fit = describe_fit(tokenizer, found, assigned.inputs, out)
    quality |= fit
    (out / "quality.json").write_text(json.dumps(quality, indent=1, ensure_ascii=False) + "\n")
    draw(quality, sids, out / "quality.png")
    return quality, fit


def _name(sids: SemanticIds) -> str:
    return "/".join(map(str, sids.codebook_sizes))


def _recall(inputs: SidInputs, sids: SemanticIds, tokenizer: Tokenizer, seed: int) -> Json:
    queries, pairs = inputs.query_vectors, inputs.query_item_pairs
    return quantised_recall(
        inputs.vectors, sids, tokenizer, query_vectors=queries, pairs=pairs, seed=seed
    )


def preference_pairs(lists: pa.Table, seed: int = 0) -> np.ndarray:
    """(P, 2) int32 rows of a positive and a negative of one list; a seeded sample of at most
    200,000.

    Of a list's positives the best :data:`_MAX_POSITIVES` count, so that no long list makes up the
    report.
    """
    positives, negatives = (
        lists.column(name).combine_chunks() for name in ("positives", "negatives")
    )
    positives = pc.list_slice(positives, 0, _MAX_POSITIVES)
    n_pos, n_neg = (np.diff(column.offsets.to_numpy()) for column in (positives, negatives))
    pos, neg = positives.flatten().to_numpy(), negatives.flatten().to_numpy()
    count = n_pos.astype(np.int64) * n_neg
    total = int(count.sum())
    chosen = np.arange(total)
    if total > _MAX_PAIRS:
        chosen = np.sort(np.random.default_rng(seed).choice(total, _MAX_PAIRS, replace=False))
    ends = np.cumsum(count)
    of = np.searchsorted(ends, chosen, side="right")  # the list of each pair
    inner = chosen - (ends[of] - count[of])
    first_pos, first_neg = np.cumsum(n_pos) - n_pos, np.cumsum(n_neg) - n_neg
    width = np.maximum(n_neg[of], 1)
    return np.stack(
        [pos[first_pos[of] + inner // width], neg[first_neg[of] + inner % width]], axis=1
    )
