"""The encoder fine-tuned on the rows that SFT learns from: the dense baseline that "better than dense" must beat.

In-batch negatives (InfoNCE): for pairs (q_i, d_i) of unit vectors and temperature τ

    L = −(1/B) Σ_i log [ exp(q_i·d_i / τ) / Σ_j exp(q_i·d_j / τ) ],   j over the items that do not answer q_i too, and i

[known: sentence-transformers' MultipleNegativesRankingLoss, scale 20 = 1/τ]. Its mask of other positives is ours: a
batch of popular queries holds many items that answer several of them.
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
import torch.nn.functional as F
from torch import Tensor

from sidar.config import Config, DenseConfig, EmbedConfig
from sidar.data import open_dataset
from sidar.embed import SentenceEmbedder, item_texts, load_embedder
from sidar.evaluate.metrics import objective
from sidar.evaluate.slices import subset_by_hash
from sidar.fitting.schedule import lr_factor, step_seed
from sidar.precision import autocast, resolve_device
from sidar.train.order import Draw, Order, Pools
from sidar.train.pairs import LogPairs, Pair, Pairs, PseudoPairs, hidden
from sidar.train.pseudo import item_words
from sidar.types import Catalogue, EvalSet, Hits, PathLike

#: Results per validation query: nDCG@10 looks no further.
DEPTH = 10
CHUNK = 2048


def in_batch_loss(
    queries: Tensor, items: Tensor, hide: Tensor, temperature: float = 0.05, symmetric: bool = False
) -> Tensor:
    """InfoNCE of unit vectors ``queries`` and ``items``, each (B, D); ``hide`` (B, B) bool: item j is no negative of i.

    ``symmetric``: the mean of both directions, queries as each other's negatives in the second.
    """
    scores = (queries @ items.T / temperature).masked_fill(hide, -torch.inf)
    own = torch.arange(len(scores), device=scores.device)
    loss = F.cross_entropy(scores, own)
    return (loss + F.cross_entropy(scores.T, own)) / 2 if symmetric else loss


Validation = Callable[[SentenceEmbedder], dict[str, float]]


def validation(
    sets: Sequence[EvalSet], catalogue: Catalogue, texts: Sequence[str], dense: DenseConfig, batch_size: int = 32
) -> Validation | None:
    """``embedder -> {set: nDCG@10}`` on at most ``valid_queries`` per set; None where the sets hold no query.

    Ranked are all live items that these queries judge and then, up to ``valid_items``, evenly spaced others: on a
    large catalogue the figure is kinder than a search of all items, and good for choosing a step.
    """
    chosen = []
    for each in sets:
        said = [q for q, prompt in enumerate(each.prompts) if prompt.query.strip()]
        keep = [said[i] for i in subset_by_hash([each.query_ids[q] for q in said], dense.valid_queries)]
        if keep:
            ids, prompts = zip(*((each.query_ids[q], each.prompts[q]) for q in keep), strict=True)
            chosen.append(EvalSet(each.name, ids, prompts, each.qrels, each.origin))
    if not chosen:
        return None
    judged = {item for each in chosen for query in each.query_ids for item in each.qrels.get(query, {})}
    wanted = np.zeros(len(catalogue), bool)
    wanted[[row for row in catalogue.rows(sorted(judged)) if row >= 0]] = True
    others = np.flatnonzero(catalogue.alive & ~wanted)
    room = min(max(dense.valid_items - int((wanted & catalogue.alive).sum()), 0), len(others))
    wanted[others[np.linspace(0, len(others) - 1, room).astype(int)]] = True
    rows = np.flatnonzero(wanted & catalogue.alive)
    ranked = [texts[int(row)] for row in rows]
    goals = [(each, objective(each, catalogue, f"ndcg@{DEPTH}")) for each in chosen]

    def validate(embedder: SentenceEmbedder) -> dict[str, float]:
        items = embedder.encode(ranked, batch_size)
        found = {}
        for each, goal in goals:
            queries = embedder.encode([prompt.query for prompt in each.prompts], batch_size)
            best = np.argsort(-(queries @ items.T), axis=1, kind="stable")[:, :DEPTH]
            found[each.name] = goal(Hits(rows[best].astype(np.int32), np.zeros(best.shape, np.float32)))
        return found

    return validate


@dataclass
class Tuned:
    """What a tuning did. ``log``: one record per validation, step 0 = untuned; ``best`` is the record that was kept.

    Without validation queries ``log`` is empty and the last step is kept.
    """

    best: dict[str, Any] | None
    log: list[dict[str, Any]] = field(default_factory=list)
    loss: float = float("nan")  # mean over the last tenth of the steps
    seconds: float = 0.0  # of training, validation apart


def tune(
    embedder: SentenceEmbedder,
    streams: dict[str, Pairs],
    texts: Sequence[str],
    dense: DenseConfig,
    *,
    seed: int = 0,
    validate: Validation | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Tuned:
    """Fine-tune ``embedder.model`` in place; it ends as the step of the highest mean nDCG@10, step 0 included.

    ``streams`` by the names of ``dense.mixture``; ``texts`` (N,) by catalogue row. The same seed gives the same
    weights on one thread. Raises ``ValueError`` where no stream with a share has a pair.
    """
    shares = {str(name): share for name, share in dense.mixture.items()}
    order = Order({name: len(stream) for name, stream in streams.items()}, shares, dense.batch_size, seed)

    def prepare(draws: list[Draw]) -> list[Pair]:
        return [streams[name].pair(index, epoch) for name, index, epoch in draws]

    pools = Pools(order, prepare, lambda pair: len(texts[pair.row]))
    model = embedder.model
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
            kept = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    check(0)
    for step in range(dense.steps):
        started = time.perf_counter()
        pairs = pools.batch(step)
        torch.manual_seed(step_seed(seed, step))  # dropout
        model.train()
        queries = encode(model, [pair.query for pair in pairs], dense.query_tokens, dense)
        items = encode(model, [texts[pair.row] for pair in pairs], dense.item_tokens, dense)
        mask = torch.from_numpy(hidden(pairs)).to(queries.device)
        loss = in_batch_loss(queries, items, mask, dense.temperature, dense.symmetric)
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


def encode(model: Any, texts: Sequence[str], max_tokens: int, dense: DenseConfig) -> Tensor:
    """(B, D) float32 unit vectors with gradients; ``texts`` are cut at ``max_tokens``."""
    limit = model.max_seq_length
    try:
        model.max_seq_length = max_tokens if limit is None else min(max_tokens, limit)
        read = getattr(model, "preprocess", None) or model.tokenize  # the latter before sentence-transformers 6
        features = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in read(list(texts)).items()}
    finally:
        model.max_seq_length = limit
    with autocast(model.device, dense.precision):
        vectors = model(features)["sentence_embedding"]
    return F.normalize(vectors.float(), dim=1)


def _decay_groups(model: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def trainable(cfg: EmbedConfig, device: str) -> SentenceEmbedder:
    """The encoder of ``embed.model``; ``ValueError`` where it has no weights to tune."""
    embedder = load_embedder(cfg, device)
    if not isinstance(embedder, SentenceEmbedder):
        raise ValueError(
            f"embed.model {cfg.model!r} has no weights, so it cannot be fine-tuned; "
            "set embed.model to minilm or to a sentence-transformers folder"
        )
    return embedder


def train_dense(
    cfg: Config,
    data_folder: PathLike,
    out: PathLike,
    *,
    valid_sets: Sequence[EvalSet] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The stage: fine-tune ``embed.model`` on the training rows of ``data_folder`` and write into ``out``

    ``model/`` (a sentence-transformers folder: ``embed.model`` may name it), ``items.npy`` (N, D) by that model as
    :func:`sidar.embed.load_items` reads it, ``embedder.json`` and ``log.jsonl``. ``valid_sets`` choose the step
    (default: all sets of role valid; none: the last step is kept). Returns a report with ``summary`` and ``shapes``.
    """
    out, device = Path(out), resolve_device(cfg.device)
    embedder = trainable(cfg.embed, device)
    data = open_dataset(data_folder)
    catalogue = data.catalogue
    texts = item_texts(catalogue, cfg.embed.fields)
    columns = (catalogue.column(name) for name in ("title", "category", "brand"))
    words = [item_words(*parts) for parts in zip(*columns, strict=True)]
    logged = LogPairs(data.sft(), catalogue.alive, cfg.seed)
    streams: dict[str, Pairs] = {"query": logged, "pseudo": PseudoPairs(words, catalogue.alive, cfg.seed)}
    sets = data.eval_sets("valid") if valid_sets is None else valid_sets
    validate = validation(sets, catalogue, texts, cfg.dense, cfg.embed.batch_size)
    tuned = tune(embedder, streams, texts, cfg.dense, seed=cfg.seed, validate=validate, say=say)
    embedder.model.save(str(out / "model"), create_model_card=False)
    (out / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in tuned.log))
    # As everybody else will load it, so that vectors and fingerprint are those of the folder.
    saved = load_embedder(cfg.embed.model_copy(update={"model": str(out / "model")}), device)
    vectors = np.lib.format.open_memmap(
        out / "items.npy", mode="w+", dtype=np.float32, shape=(len(catalogue), saved.dim)
    )
    for start in range(0, len(texts), CHUNK):
        vectors[start : start + CHUNK] = saved.encode(texts[start : start + CHUNK], cfg.embed.batch_size)
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
    facts = {
        "best": tuned.best,
        "untuned": tuned.log[0] if tuned.log else None,
        "step": chosen,
        "loss": tuned.loss,
        "seconds_per_step": tuned.seconds / cfg.dense.steps,
        "pairs": {name: len(stream) for name, stream in streams.items()},
        "requests_left_out": logged.dropped,
    }
    if tuned.best:
        quality = f"valid nDCG@10 {tuned.log[0]['ndcg@10']:.3f} → {tuned.best['ndcg@10']:.3f}"
    else:
        quality = "no validation query, so the last step is kept"
    summary = (
        f"{len(catalogue):,} items by {cfg.embed.model} tuned on {len(logged):,} requests, step {chosen}, {quality}"
    )
    return {"summary": summary, "shapes": {"items": [len(catalogue), saved.dim], **facts}, "log": tuned.log}
