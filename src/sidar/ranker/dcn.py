"""A click model in torch: Deep & Cross Network v2 (Wang et al. 2021, arXiv 2008.13535).

    x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l        eq. 1, beside an MLP; both ends are joined linearly

It is trained on the binary cross-entropy of "chosen" over the candidates of a request, where
LambdaMART compares the candidates with one another. A feature enters standardised, with a second
input that says whether it is known [ours].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sidar.config import DcnConfig
from sidar.fitting.loop import Loss, Scalars, Settings, Training
from sidar.fitting.schedule import step_seed
from sidar.ranker.learner import Table, ndcg


class CrossNet(nn.Module):
    """Features (P, F) with NaN → logits (P,)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int, cross: int, hidden: int) -> None:
        super().__init__()
        width = 2 * features
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(cross))
        self.deep = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.out = nn.Linear(width + hidden, 1)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def standardise(self, features: np.ndarray) -> None:
        """Take mean and spread of the known values of ``features`` (P, F)."""
        known = np.isfinite(features)
        count = np.maximum(known.sum(0), 1)
        values = np.where(known, features, 0.0).astype(np.float64)
        mean = values.sum(0) / count
        spread = np.sqrt((np.where(known, features - mean, 0.0) ** 2).sum(0) / count)
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)))

    def forward(self, features: Tensor) -> Tensor:
        known = torch.isfinite(features)
        values = (torch.nan_to_num(features) - self.mean) / self.scale
        start = torch.cat([torch.where(known, values, 0.0).clamp(-8, 8), known.float()], dim=1)
        crossed = start
        for layer in self.cross:
            crossed = start * layer(crossed) + crossed
        return self.out(torch.cat([crossed, self.deep(start)], dim=1)).squeeze(1)


class Dcn:
    """A fitted :class:`CrossNet`; make one with :meth:`fit` or :meth:`load`."""

    name = "dcn"

    def __init__(self, net: CrossNet) -> None:
        self._net = net.eval()

    @classmethod
    def fit(cls, options: DcnConfig, train: Table, valid: Table, *, seed: int) -> Dcn:
        """Train on ``train`` and keep the step of the best nDCG@10 on ``valid``.

        Where the tables have a prior, its log P is added to the logits in training and on
        ``valid``, and is no part of :meth:`scores`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = CrossNet(train.features.shape[1], options.cross, options.hidden)
        net.standardise(train.features)
        training = DcnTraining(net, options, train, valid, seed)
        training.run()
        if training.best:
            net.load_state_dict(training.best)
        return cls(net)

    @torch.inference_mode()
    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return (P,) float64 logits of feature rows (P, F)."""
        if not len(features):
            return np.empty(0)
        rows = torch.from_numpy(np.ascontiguousarray(features, np.float32))
        return self._net(rows).double().numpy()

    def save(self, path: Path) -> None:
        """Write the weights as safetensors."""
        shape = {"cross": str(len(self._net.cross)), "hidden": str(self._net.deep[0].out_features)}
        tensors = {name: value.contiguous() for name, value in self._net.state_dict().items()}
        save_file(tensors, path, metadata=shape)

    @classmethod
    def load(cls, path: Path) -> Dcn:
        """Read what :meth:`save` wrote; ``ValueError`` where it is no model."""
        try:
            with safe_open(path, framework="pt") as file:
                shape = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            net = CrossNet(len(tensors["mean"]), int(shape["cross"]), int(shape["hidden"]))
            net.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); make it again with `sidar run`"
            ) from error
        return cls(net)


class DcnTraining(Training[np.ndarray]):
    """Batches of requests, all candidates of each; the best step is kept in memory."""

    unit = "candidates"
    remedy = "lower ranker.dcn.lr"

    def __init__(
        self, net: CrossNet, options: DcnConfig, train: Table, valid: Table, seed: int
    ) -> None:
        optimizer = torch.optim.AdamW(
            net.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        period = options.validate_every if len(valid) else None
        # nothing is written: a fit takes seconds and starts again after a kill
        super().__init__(
            net,
            optimizer,
            Settings(
                options,
                log_every=options.steps,
                checkpoint_every=options.steps,
                validate_every=period,
            ),
            seed=seed,
            device="cpu",
            work=None,
            title="ranker",
            progress=False,
        )
        self._net, self._options, self._train_on, self._valid = net, options, train, valid
        self.best: dict[str, Tensor] = {}

    def batches(self, step: int) -> list[np.ndarray]:
        """Return the requests of ``step``, drawn by seed and step."""
        draw = np.random.default_rng(step_seed(self.seed, step))
        size = min(self._options.batch_size, len(self._train_on))
        return [draw.choice(len(self._train_on), size, replace=False)]

    def loss(self, batch: np.ndarray) -> Loss:
        """Return the weighted cross-entropy of the candidates of the requests in ``batch``."""
        table = self._train_on
        rows = np.concatenate(
            [np.arange(table.starts[r], table.starts[r + 1]) for r in batch.tolist()]
        )
        logits = self._net(torch.from_numpy(table.features[rows]))
        if table.prior is not None:
            logits = logits + torch.from_numpy(table.prior.logs[rows]).float()
        chosen = torch.from_numpy((table.labels[rows] > 0).astype(np.float32))
        weight = torch.from_numpy(np.repeat(table.weight[batch], table.sizes[batch]))
        value = F.binary_cross_entropy_with_logits(logits, chosen, weight.float())
        return Loss(value, size=len(rows))

    def identity(self) -> dict[str, object]:
        return {}

    def validate(self) -> Scalars:
        self._net.eval()
        scores = Dcn(self._net).scores(self._valid.features)
        if self._valid.prior is not None:
            scores = scores + self._valid.prior.logs
        self._net.train()
        return {"ndcg@10": float(ndcg(self._valid, scores).mean())}

    def is_better(self, now: Scalars, best: Scalars) -> bool:
        return not best or now["ndcg@10"] > best["ndcg@10"]

    def keep_best(self, step: int) -> None:
        self.best = {name: value.clone() for name, value in self._net.state_dict().items()}
