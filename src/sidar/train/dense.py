"""The encoder fine-tuned on the rows that SFT learns from: the dense baseline that "better than
dense" must beat.

The loss is that of ``train/contrast.py`` with the other items of the batch as negatives;
``dense.towers: two`` trains SCI's query and item towers instead of one encoder
(``train/towers.py``, docs/methods/sci.md) through the same loop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sidar.config import Config, DenseConfig
from sidar.data import open_dataset
from sidar.embed import Embedder, TowerEmbedder, item_texts, load_embedder, load_items, query_side
from sidar.embed.items import FILES, item_views
from sidar.evaluate.metrics import objective
from sidar.evaluate.slices import subset_by_hash
from sidar.evaluate.views import linear_cka, modality_gap, self_ranks
from sidar.fitting.schedule import lr_factor, step_seed
from sidar.precision import resolve_device
from sidar.train.order import Draw, Order, Pools
from sidar.train.pairs import LogPairs, Pair, Pairs, PseudoPairs
from sidar.train.pseudo import item_words
from sidar.train.towers import Trainable, batch_loss, trainable
from sidar.types import Catalogue, EvalSet, Hits, PathLike

#: Results per validation query: nDCG@10 looks no further.
DEPTH = 10
CHUNK = 2048


Validation = Callable[[Embedder], dict[str, float]]


def validation(
    sets: Sequence[EvalSet],
    catalogue: Catalogue,
    texts: Sequence[str],
    dense: DenseConfig,
    batch_size: int = 32,
) -> Validation | None:
    """``embedder -> {set: nDCG@10}`` on at most ``valid_queries`` per set; None where the sets hold
    no query.

    Ranked are all live items that these queries judge and then, up to ``valid_items``, evenly
    spaced others: on a large catalogue the figure is kinder than a search of all items, and good
    for choosing a step.
    """
    chosen = []
    for each in sets:
        said = [q for q, prompt in enumerate(each.prompts) if prompt.query.strip()]
        keep = [
            said[i] for i in subset_by_hash([each.query_ids[q] for q in said], dense.valid_queries)
        ]
        if keep:
            ids, prompts = zip(*((each.query_ids[q], each.prompts[q]) for q in keep), strict=True)
            chosen.append(EvalSet(each.name, ids, prompts, each.qrels, each.origin))
    if not chosen:
        return None
    judged = {
        item for each in chosen for query in each.query_ids for item in each.qrels.get(query, {})
    }
    wanted = np.zeros(len(catalogue), bool)
    wanted[[row for row in catalogue.rows(sorted(judged)) if row >= 0]] = True
    others = np.flatnonzero(catalogue.alive & ~wanted)
    room = min(max(dense.valid_items - int((wanted & catalogue.alive).sum()), 0), len(others))
    wanted[others[np.linspace(0, len(others) - 1, room).astype(int)]] = True
    rows = np.flatnonzero(wanted & catalogue.alive)
    ranked = [texts[int(row)] for row in rows]
    goals = [(each, objective(each, catalogue, f"ndcg@{DEPTH}")) for each in chosen]

    def validate(embedder: Embedder) -> dict[str, float]:
        items = embedder.encode(ranked, batch_size)
        found = {}
        for each, goal in goals:
            queries = query_side(embedder).encode(
                [prompt.query for prompt in each.prompts], batch_size
            )
            best = np.argsort(-(queries @ items.T), axis=1, kind="stable")[:, :DEPTH]
            found[each.name] = goal(
                Hits(rows[best].astype(np.int32), np.zeros(best.shape, np.float32))
            )
        return found

    return validate


@dataclass
class Tuned:
    """What a tuning did. ``log``: one record per validation, step 0 = untuned; ``best`` is the
    record that was kept.

    Without validation queries ``log`` is empty and the last step is kept.
    """

    best: dict[str, Any] | None
    log: list[dict[str, Any]] = field(default_factory=list)
    loss: float = float("nan")  # mean over the last tenth of the steps
    seconds: float = 0.0  # of training, validation apart


def tune(
    embedder: Trainable,
    streams: dict[str, Pairs],
    texts: Sequence[str],
    dense: DenseConfig,
    *,
    seed: int = 0,
    validate: Validation | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Tuned:
    """Fine-tune ``embedder.model`` in place; it ends as the step of the highest mean nDCG@10, step
    0 included.

    ``streams`` by the names of ``dense.mixture``; ``texts`` (N,) by catalogue row. The same seed
    gives the same weights on one thread. Raises ``ValueError`` where no stream with a share has a
    pair.
    """
    shares = {str(name): share for name, share in dense.mixture.items()}
    order = Order(
        {name: len(stream) for name, stream in streams.items()}, shares, dense.batch_size, seed
    )

    def prepare(draws: list[Draw]) -> list[Pair]:
        return [streams[name].pair(index, epoch) for name, index, epoch in draws]

    pools = Pools(order, prepare, lambda pair: len(texts[pair.row]))
    model: torch.nn.Module = embedder.model
    groups = _decay_groups(model, dense.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=dense.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, dense))
    done, losses, kept = Tuned(None), [], None

    def check(step: int) -> None:
        nonlocal kept
        if validate is None:
            return
        figures = validate(embedder)
        record = {"step": step, "ndcg@10": float(np.mean(list(figures.values()))), "sets": figures}
        done.log.append(record)
        say(f"dense: step {step}, valid nDCG@10 {record['ndcg@10']:.3f}")
        if done.best is None or record["ndcg@10"] > done.best["ndcg@10"]:
            done.best = record
            kept = {
                name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()
            }

    check(0)
    for step in range(dense.steps):
        started = time.perf_counter()
        pairs = pools.batch(step)
        torch.manual_seed(step_seed(seed, step))  # dropout
        model.train()
        loss = batch_loss(embedder, pairs, texts, dense)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if dense.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), dense.clip)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        done.seconds += time.perf_counter() - started
        if (step + 1) % dense.validate_every == 0 or step + 1 == dense.steps:
            check(step + 1)
    model.eval()
    done.loss = float(np.mean(losses[-max(dense.steps // 10, 1) :]))
    if kept is not None:
        model.load_state_dict(kept)
    return done


def _decay_groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def train_dense(
    cfg: Config,
    data_folder: PathLike,
    out: PathLike,
    *,
    valid_sets: Sequence[EvalSet] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The stage: fine-tune ``embed.model`` on the training rows of ``data_folder`` and write into
    ``out``

    ``model/`` (a sentence-transformers folder, or two and ``towers.json``: ``embed.model`` may name
    it), ``items.npy`` (N, D) by that model as :func:`sidar.embed.load_items` reads it, of two
    towers ``items_query.npy`` as well, ``embedder.json`` and ``log.jsonl``. ``valid_sets`` choose
    the step (default: all sets of role valid; none: the last step is kept). Returns a report with
    ``summary`` and ``shapes``.
    """
    out, device = Path(out), resolve_device(cfg.device)
    embedder = trainable(cfg.embed, device, cfg.dense)
    data = open_dataset(data_folder)
    catalogue = data.catalogue
    texts = item_texts(catalogue, cfg.embed.fields)
    columns = (catalogue.column(name) for name in ("title", "category", "brand"))
    words = [item_words(*parts) for parts in zip(*columns, strict=True)]
    logged = LogPairs(data.sft(), catalogue.alive, cfg.seed, max_positives=cfg.sft.max_positives)
    streams: dict[str, Pairs] = {
        "query": logged,
        "pseudo": PseudoPairs(words, catalogue.alive, cfg.seed),
    }
    # The sets of role valid as the data stage left them: a later change of evaluate.* trains
    # nothing again.
    sets = data.eval_sets("valid") if valid_sets is None else valid_sets
    validate = validation(sets, catalogue, texts, cfg.dense, cfg.embed.batch_size)
    tuned = tune(embedder, streams, texts, cfg.dense, seed=cfg.seed, validate=validate, say=say)
    if isinstance(embedder, TowerEmbedder):
        embedder.save(out / "model")
    else:
        embedder.model.save(str(out / "model"), create_model_card=False)
    (out / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in tuned.log))
    # As everybody else will load it, so that vectors and fingerprint are those of the folder.
    saved = load_embedder(cfg.embed.model_copy(update={"model": str(out / "model")}), device)
    for name, view in item_views(saved).items():
        shape = (len(catalogue), view.dim)
        vectors = np.lib.format.open_memmap(
            out / FILES[name], mode="w+", dtype=np.float32, shape=shape
        )
        for start in range(0, len(texts), CHUNK):
            vectors[start : start + CHUNK] = view.encode(
                texts[start : start + CHUNK], cfg.embed.batch_size
            )
        vectors.flush()
    about = {
        "model": cfg.embed.model,
        "fingerprint": saved.fingerprint,
        "dim": saved.dim,
        "fields": cfg.embed.fields,
        "max_tokens": cfg.embed.max_tokens,
        "items": len(catalogue),
    }
    (out / "embedder.json").write_text(json.dumps(about, indent=1) + "\n")
    chosen = tuned.best["step"] if tuned.best else cfg.dense.steps
    facts: dict[str, Any] = {
        "best": tuned.best,
        "untuned": tuned.log[0] if tuned.log else None,
        "step": chosen,
        "loss": tuned.loss,
        "seconds_per_step": tuned.seconds / cfg.dense.steps,
        "pairs": {name: len(stream) for name, stream in streams.items()},
        "requests_left_out": logged.dropped,
        "towers": cfg.dense.towers,
        "parameters": sum(parameter.numel() for parameter in embedder.model.parameters()),
    }
    if isinstance(saved, TowerEmbedder):
        facts["views"] = apart(load_items(out), load_items(out, "query"))
    if tuned.best:
        quality = f"valid nDCG@10 {tuned.log[0]['ndcg@10']:.3f} → {tuned.best['ndcg@10']:.3f}"
    else:
        quality = "no validation query, so the last step is kept"
    who = f"two towers from {cfg.embed.model}" if cfg.dense.towers == "two" else cfg.embed.model
    summary = (
        f"{len(catalogue):,} items by {who} tuned on {len(logged):,} requests, step "
        f"{chosen}, {quality}"
    )
    return {
        "summary": summary,
        "shapes": {"items": [len(catalogue), saved.dim], **facts},
        "log": tuned.log,
    }


def apart(items: np.ndarray, seen: np.ndarray, most: int = 4096) -> dict[str, float]:
    """How far f_i(I) and f_q(I) lie apart, on ``most`` evenly spaced rows: what the swap is meant
    to bring together.
    """
    if not len(items):
        return {}
    rows = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).astype(int))
    one, other = np.asarray(items[rows]), np.asarray(seen[rows])
    first = float((self_ranks(other, one) <= 1).mean())
    return {
        "gap": modality_gap(one, other),
        "cka": linear_cka(one, other),
        "find_themselves": first,
    }
