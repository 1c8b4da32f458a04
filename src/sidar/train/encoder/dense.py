"""The encoder fine-tuned on the rows that SFT learns from: the dense baseline that "better than
dense" must beat.

The loss is that of ``train/encoder/contrast.py`` with the other items of the batch as negatives;
``dense.towers: two`` trains SCI's query and item towers instead of one encoder
(``train/encoder/towers.py``, docs/methods/sci.md) through the same loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sidar.config import Config, DenseConfig, EmbedConfig
from sidar.data import open_dataset
from sidar.embed import Embedder, TowerEmbedder, item_texts, load_embedder, load_items
from sidar.embed.items import FILES, item_views
from sidar.fitting import checkpoint
from sidar.fitting.loop import Loss, Scalars, Settings, Training
from sidar.fitting.picture import Panel
from sidar.precision import resolve_device
from sidar.train.encoder.pairs import LogPairs, Pair, Pairs, PseudoPairs
from sidar.train.encoder.towers import Trainable, batch_loss, trainable
from sidar.train.inputs import hash_of
from sidar.train.order import Draw, Order, Pools
from sidar.train.pseudo import ItemWords, item_words
from sidar.train.stage import draw_log, keep_log, work_folder
from sidar.train.validate import Validation, apart, validation
from sidar.types import Catalogue, EvalSet, PathLike

CHUNK = 2048
#: Steps between two records of the log.
LOG_EVERY = 10
NDCG = "ndcg@10"
#: Settings of the index, which no training reads.
SEARCHED = {"index", "coarse_view", "lists", "nprobe"}
PANELS = (
    Panel("Loss", (("loss", "in-batch loss"),)),
    Panel("Validation", ((NDCG, "nDCG@10, mean over sets"),)),
    Panel("Gradient norm", (("grad_norm", "before clipping"),)),
    Panel("Learning rate", (("lr", "learning rate"),)),
)


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
    work: Path | None = None,
    inputs: dict[str, object] | None = None,
    progress: bool = False,
) -> Tuned:
    """Fine-tune ``embedder.model`` in place; it ends as the step of the highest mean nDCG@10, step
    0 included.

    ``streams`` by the names of ``dense.mixture``; ``texts`` (N,) by catalogue row. The same seed
    gives the same weights on one thread. With ``work`` (a folder) an interrupted tuning is
    continued; ``inputs`` are the hashes that it must share. Raises ``ValueError`` where no stream
    with a share has a pair.
    """
    training = DenseTraining(
        embedder, streams, texts, dense, seed, validate, work, inputs or {}, progress
    )
    return training.tune()


class DenseTraining(Training[list[Pair]]):
    """One encoder or two towers in the training loop; a batch are the pairs of a step."""

    unit = "pairs"
    shown = ("loss", NDCG)
    validates_first = True
    remedy = "lower dense.lr, or set dense.precision: fp32"

    def __init__(
        self,
        embedder: Trainable,
        streams: dict[str, Pairs],
        texts: Sequence[str],
        dense: DenseConfig,
        seed: int,
        validate: Validation | None,
        work: Path | None,
        inputs: dict[str, object],
        progress: bool,
    ) -> None:
        self.embedder, self.texts, self.dense, self._inputs = embedder, texts, dense, inputs
        self._validation = validate
        self._validated: list[dict[str, Any]] = []
        self._last_losses: list[float] = []  # of the last tenth of the steps
        self._best: dict[str, torch.Tensor] = {}
        shares = {str(name): share for name, share in dense.mixture.items()}
        sizes = {name: len(stream) for name, stream in streams.items()}

        def prepare(draws: list[Draw]) -> list[Pair]:
            return [streams[name].pair(index, epoch) for name, index, epoch in draws]

        order = Order(sizes, shares, dense.batch_size, seed)
        self._pools = Pools(order, prepare, lambda pair: len(texts[pair.row]))
        model: nn.Module = embedder.model
        groups = _decay_groups(model, dense.weight_decay)
        super().__init__(
            model,
            torch.optim.AdamW(groups, lr=dense.lr, fused=True),
            Settings(dense, LOG_EVERY, dense.validate_every, dense.validate_every),
            seed=seed,
            device=next(model.parameters()).device,
            work=work,
            title="dense",
            progress=progress,
        )

    def tune(self) -> Tuned:
        self.run()
        self.model.eval()
        self.model.load_state_dict(self._read_best())
        best = max(self._validated, key=lambda record: record[NDCG], default=None)
        loss = float(np.mean(self._last_losses))
        return Tuned(best, self._validated, loss, self.result.step_seconds)

    def identity(self) -> dict[str, object]:
        trained = self.dense.model_dump(mode="json", exclude=SEARCHED)
        return {"stage": "dense", "seed": self.seed, "dense": trained, **self._inputs}

    def batches(self, step: int) -> list[list[Pair]]:
        return [self._pools.batch(step)]

    def loss(self, batch: list[Pair]) -> Loss:
        self.model.train()
        return Loss(batch_loss(self.embedder, batch, self.texts, self.dense), len(batch))

    def after_step(self, step: int, loss: float) -> None:
        self._last_losses = [*self._last_losses, loss][-max(self.dense.steps // 10, 1) :]

    def validate(self) -> Scalars:
        if self._validation is None:
            return {}
        sets = self._validation(self.embedder)
        mean = float(np.mean(list(sets.values())))
        return {NDCG: mean, **{f"{NDCG}/{name}": figure for name, figure in sets.items()}}

    def is_better(self, now: Scalars, best: Scalars) -> bool:
        return not best or now[NDCG] > best[NDCG]

    def keep_best(self, step: int) -> None:
        weights = {
            name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()
        }
        if self.work is None:
            self._best = weights
        else:
            checkpoint.write_weights(self.work / "best", weights)

    def _read_best(self) -> dict[str, torch.Tensor]:
        return self._best if self.work is None else checkpoint.read_weights(self.work / "best")

    def recorded(self, kind: str, step: int, scalars: Scalars, say: Callable[[str], None]) -> None:
        if kind == "valid":
            sets = {
                name.removeprefix(f"{NDCG}/"): figure
                for name, figure in scalars.items()
                if name != NDCG
            }
            self._validated.append({"step": step, NDCG: scalars[NDCG], "sets": sets})

    def state_dict(self) -> dict[str, Any]:
        return {"validated": self._validated, "last_losses": self._last_losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._validated, self._last_losses = state["validated"], state["last_losses"]


def _decay_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
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
    work: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Fine-tune ``embed.model`` on the training rows of ``data_folder`` and write into ``out``

    ``model/`` (a sentence-transformers folder, or two and ``towers.json``: ``embed.model`` may name
    it), ``items.npy`` (N, D) by that model as :func:`sidar.embed.load_items` reads it, of two
    towers ``items_query.npy`` as well, ``embedder.json``, ``log.jsonl``, ``tensorboard/`` and
    ``fit.png``. ``valid_sets`` choose the step (default: all sets of role valid; none: the last
    step is kept). Interrupted work is kept in ``work`` (default: ``.<stage>.work`` beside ``out``)
    and continued. Returns a report with ``summary`` and ``shapes``.
    """
    out, device = Path(out), resolve_device(cfg.device)
    embedder = trainable(cfg.embed, device, cfg.dense)
    data = open_dataset(data_folder)
    catalogue = data.catalogue
    texts = item_texts(catalogue, cfg.embed.fields)
    logged = LogPairs(data.sft(), catalogue.alive, cfg.seed, max_positives=cfg.sft.max_positives)
    pseudo = PseudoPairs(_words(catalogue), catalogue.alive, cfg.seed)
    streams: dict[str, Pairs] = {"query": logged, "pseudo": pseudo}
    # The sets of role valid as the data stage left them: a later change of evaluate.* trains
    # nothing again.
    sets = data.eval_sets("valid") if valid_sets is None else valid_sets
    inputs: dict[str, object] = {
        "encoder": embedder.fingerprint,
        "fields": cfg.embed.fields,
        "max_positives": cfg.sft.max_positives,
        "valid": {one.name: len(one.query_ids) for one in sets},
        "data": hash_of(Path(data_folder), ["sft.parquet", "catalogue.arrow"]),
    }
    with work_folder(out, work) as folder:
        tuned = tune(
            embedder,
            streams,
            texts,
            cfg.dense,
            seed=cfg.seed,
            validate=validation(sets, catalogue, texts, cfg.dense, cfg.embed.batch_size),
            work=folder,
            inputs=inputs,
            progress=progress,
        )
        out.mkdir(parents=True, exist_ok=True)
        keep_log(folder, out)
    saved = _save_encoder(embedder, cfg, out, device)
    _write_vectors(saved, texts, cfg.embed, out)
    facts: dict[str, object] = {
        "best": tuned.best,
        "untuned": tuned.log[0] if tuned.log else None,
        "step": tuned.best["step"] if tuned.best else cfg.dense.steps,
        "loss": tuned.loss,
        "seconds_per_step": tuned.seconds / cfg.dense.steps,
        "pairs": {name: len(stream) for name, stream in streams.items()},
        "requests_left_out": logged.dropped,
        "towers": cfg.dense.towers,
        "parameters": sum(parameter.numel() for parameter in embedder.model.parameters()),
    }
    if isinstance(saved, TowerEmbedder):
        facts["views"] = apart(load_items(out), load_items(out, "query"))
    summary = _summary(cfg, len(catalogue), len(logged), tuned)
    draw_log(out, PANELS, summary)
    return {
        "summary": summary,
        "shapes": {"items": [len(catalogue), saved.dim], **facts},
        "log": tuned.log,
    }


def _words(catalogue: Catalogue) -> list[ItemWords]:
    """Return what pseudo-queries are made of, by row."""
    columns = (catalogue.column(name) for name in ("title", "category", "brand"))
    return [item_words(*parts) for parts in zip(*columns, strict=True)]


def _save_encoder(embedder: Trainable, cfg: Config, out: Path, device: str) -> Embedder:
    """Write ``model/`` and load it as everybody else will, so that vectors and fingerprint are
    those of the folder.
    """
    if isinstance(embedder, TowerEmbedder):
        embedder.save(out / "model")
    else:
        embedder.model.save(str(out / "model"), create_model_card=False)
    return load_embedder(cfg.embed.model_copy(update={"model": str(out / "model")}), device)


def _write_vectors(saved: Embedder, texts: Sequence[str], embed: EmbedConfig, out: Path) -> None:
    """Write the item vectors of every view of an encoder, and ``embedder.json``."""
    for name, view in item_views(saved).items():
        shape = (len(texts), view.dim)
        vectors = np.lib.format.open_memmap(
            out / FILES[name], mode="w+", dtype=np.float32, shape=shape
        )
        for start in range(0, len(texts), CHUNK):
            block = slice(start, start + CHUNK)
            vectors[block] = view.encode(texts[block], embed.batch_size)
        vectors.flush()
    about = {
        "model": embed.model,
        "fingerprint": saved.fingerprint,
        "dim": saved.dim,
        "fields": embed.fields,
        "max_tokens": embed.max_tokens,
        "items": len(texts),
    }
    (out / "embedder.json").write_text(json.dumps(about, indent=1) + "\n")


def _summary(cfg: Config, items: int, requests: int, tuned: Tuned) -> str:
    """Return the line that a run prints of the stage."""
    if tuned.best:
        before, after = tuned.log[0][NDCG], tuned.best[NDCG]
        step, quality = tuned.best["step"], f"valid nDCG@10 {before:.3f} → {after:.3f}"
    else:
        step, quality = cfg.dense.steps, "no validation query, so the last step is kept"
    who = f"two towers from {cfg.embed.model}" if cfg.dense.towers == "two" else cfg.embed.model
    return f"{items:,} items by {who} tuned on {requests:,} requests, step {step}, {quality}"
