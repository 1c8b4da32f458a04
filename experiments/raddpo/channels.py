"""The channels beside the model: lexical, dense (zero-shot and tuned on the same rows), fusions,
ceilings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.raddpo.bed import Bed
from experiments.raddpo.plan import Cell
from experiments.raddpo.scoring import Columns, Judge
from experiments.raddpo.sets import Pool, pools
from sidar.baselines import Bm25, Dense, Popularity, QuantisedDense, reconstruct, tune_fusion
from sidar.data import open_dataset
from sidar.embed import load_embedder, load_items
from sidar.index import PrefixIndex
from sidar.types import Hits

#: Where fusion weights for a pool are chosen: on validation queries of the same origin.
DEV = {"judged_test": "judged_dev", "grounded_test": "grounded_valid", "day8": "day7"}
DEPTH = 200


def score_channel(
    cell: Cell, context: Any, judge: Judge, scored: Sequence[Pool]
) -> tuple[dict[str, Columns], dict[str, Any]]:
    """Every column of a baseline, fusion or ceiling; its answers are kept for the fusions that need
    them.
    """
    everything = [*scored, *pools(context.bed, sorted(set(DEV.values())))]
    facts: dict[str, Any] = {}
    if "oracle" in cell.system:
        return {pool.name: _oracle(cell.system, pool, context, judge) for pool in scored}, facts
    if "+" in cell.system:
        answers, facts = _fusion(cell.system.split("+"), context, judge, everything)
    else:
        search, facts = _channel(cell, context, judge, everything)
        answers = {pool.name: search(pool) for pool in everything}
    for name, hits in answers.items():
        path = context.hits(cell.system, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, rows=hits.rows, scores=hits.scores)
    return {pool.name: judge.score(pool, answers[pool.name].rows) for pool in scored}, facts


def _channel(
    cell: Cell, context: Any, judge: Judge, everything: Sequence[Pool]
) -> tuple[Callable[[Pool], Hits], dict[str, Any]]:
    bed: Bed = context.bed
    data = open_dataset(bed.data())
    catalogue = data.catalogue
    cfg = context.config(cell)
    facts: dict[str, Any] = {}
    channel: Any
    if cell.system == "popularity":
        channel = Popularity(data.priors().prior, alive=catalogue.alive)
    elif cell.system == "bm25":  # fields and weights chosen on the judged dev queries
        dev = next(pool for pool in everything if pool.name == "judged_dev")
        channel = Bm25(catalogue).tune(
            [p.query for p in dev.prompts], lambda hits: judge.objective(dev, hits)
        )
        facts = {"about": channel.about}
    elif cell.system == "dense":
        channel = Dense(
            load_items(bed.embed), load_embedder(cfg.embed, context.device), alive=catalogue.alive
        )
    elif cell.system == "dense-tuned":
        folder, facts = tuned_encoder(cell, context)
        tuned = load_embedder(
            cfg.embed.model_copy(update={"model": str(folder / "model")}), context.device
        )
        channel = Dense(load_items(folder), tuned, alive=catalogue.alive)
    elif cell.system == "quantised-dense":
        index: PrefixIndex = context.index(cell.sizes)
        codebooks = codebooks_of(bed.sid(cell.sizes))
        vectors = reconstruct(codebooks, index.table)
        channel = QuantisedDense(
            vectors, index.expand_with_source, load_embedder(cfg.embed, context.device)
        )
    else:
        raise ValueError(f"no channel {cell.system!r}")
    return lambda pool: channel.search([p.query for p in pool.prompts], DEPTH), facts


def codebooks_of(folder: Path) -> list[np.ndarray]:
    """(K, D) centroids of each level of a fitted tokenizer."""
    from sidar.sid import load_tokenizer

    tokenizer: Any = load_tokenizer(folder)
    return [np.asarray(book, np.float32) for book in tokenizer.codebooks_]


def tuned_encoder(cell: Cell, context: Any) -> tuple[Path, dict[str, Any]]:
    """The encoder fine-tuned on the training rows, trained once and kept in the work folder; its
    facts.
    """
    import json
    import shutil

    from sidar.artifacts import replace_folder
    from sidar.train.encoder.dense import train_dense

    folder = context.model(cell.name)
    done = folder / "trained.json"
    cfg = context.config(cell)
    lists = context.bed.identity(cell.data, cell.sizes)["lists"]
    wanted = {"dense": cfg.dense.model_dump(mode="json"), "seed": cfg.seed, "lists": lists}
    if not done.is_file() or json.loads(done.read_text())["wanted"] != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        tmp = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir(parents=True)
        # nothing of the test day or the test queries
        dev = {"judged_dev", "grounded_valid", "day7-clicks"}
        sets = [
            each for each in open_dataset(context.bed.data()).eval_sets("valid") if each.name in dev
        ]
        report = train_dense(cfg, context.bed.data(), tmp, valid_sets=sets)
        (tmp / "trained.json").write_text(
            json.dumps({"wanted": wanted, "facts": report["shapes"]}, default=float) + "\n"
        )
        replace_folder(tmp, folder)
    return folder, json.loads(done.read_text())["facts"]


def _kept(context: Any, system: str, pool: str) -> Hits:
    with np.load(context.hits(system, pool)) as found:
        return Hits(found["rows"], found["scores"])


def _fusion(
    parts: Sequence[str], context: Any, judge: Judge, everything: Sequence[Pool]
) -> tuple[dict[str, Hits], dict[str, Any]]:
    """Channels joined, with weights chosen on the validation queries of the same origin."""
    by_name = {pool.name: pool for pool in everything}
    answers: dict[str, Hits] = {}
    facts: dict[str, Any] = {}
    for test, dev in DEV.items():
        if test not in by_name:
            continue
        pool = by_name[dev]
        channels = [_kept(context, part, dev) for part in parts]
        chosen = tune_fusion(
            [(channels, lambda hits, pool=pool: judge.objective(pool, hits))], k=DEPTH
        )
        facts[test] = {
            "method": chosen.method,
            "weights": list(chosen.weights),
            "dev": chosen.value,
        }
        answers[test] = chosen([_kept(context, part, test) for part in parts], DEPTH)
        answers[dev] = chosen(channels, DEPTH)
    return answers, facts


def fuse_with_channels(
    context: Any,
    judge: Judge,
    columns: dict[str, Columns],
    kept: dict[str, Hits],
    scored: Sequence[Pool],
    answer: Callable[[Pool], Hits],
) -> dict[str, Any]:
    """Add ``fused.*`` of BM25 + tuned dense + this model to the held-out pools' columns; returns
    the weights.
    """
    facts: dict[str, Any] = {}
    for pool in scored:
        if "" not in pool.targets:  # requests of the log: the model's own columns say enough
            continue
        dev = pools(context.bed, [DEV[pool.name]])[0]
        channels = [
            *(_kept(context, part, dev.name) for part in ("bm25", "dense-tuned")),
            answer(dev),
        ]
        chosen = tune_fusion(
            [(channels, lambda hits, dev=dev: judge.objective(dev, hits))], k=DEPTH
        )
        tested = [
            *(_kept(context, part, pool.name) for part in ("bm25", "dense-tuned")),
            kept[pool.name],
        ]
        columns[pool.name] |= judge.fused(pool, chosen(tested, DEPTH))
        facts[pool.name] = {
            "method": chosen.method,
            "weights": list(chosen.weights),
            "dev": chosen.value,
        }
    return facts


def _oracle(system: str, pool: Pool, context: Any, judge: Judge) -> Columns:
    """``oracle-sid``: SIDs in the order of each target's own truth. ``oracle-utility``: in that of
    the true utility.

    ``topic-oracle``: the judged pool of a query in random order, as expected values
    (docs/evaluation.md).
    """
    if system == "topic-oracle":
        return judge.topic(pool)
    prior = open_dataset(context.bed.data()).priors().prior
    if system == "oracle-utility" and "utility" in pool.targets:
        return judge.by_utility(pool, prior)
    columns: Columns = {}
    for name in pool.targets:
        columns |= judge.oracle(pool, name, prior)
    return columns
