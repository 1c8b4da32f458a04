"""The training loop under everything that is trained: a killed run continues and ends the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from shops import shop, topics
from tiny_encoder import save_tiny_encoder
from toy_train import align_task, quick, sft_task, tiny_model, write_backbone

from sidar.config import AlignConfig, DenseConfig, EmbedConfig, SftConfig
from sidar.fitting import checkpoint
from sidar.fitting.loop import Training
from sidar.sid import Acrq, CqSid, RqVae
from sidar.train.encoder.dense import trainable, tune
from sidar.train.encoder.pairs import LogPairs
from sidar.train.loop import fit
from sidar.types import SidInputs

#: Scalars of a log that are times of the machine.
TIMES = ("seconds", "tokens_per_s", "vectors_per_s", "pairs_per_s")
STEPS = 12

Result = tuple[dict[str, torch.Tensor], Any]  # weights, and what the use says of its training


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A backbone and an encoder, both tiny."""
    folder = tmp_path_factory.mktemp("made")
    encoder = save_tiny_encoder(folder / "encoder", seed=0)
    return SimpleNamespace(backbone=write_backbone(folder / "backbone"), encoder=str(encoder))


def language_model(made: SimpleNamespace, work: Path, objective: str | None) -> Result:
    kind = SftConfig if objective is None else AlignConfig
    cfg = quick(kind, steps=STEPS, accumulate=2, log_every=5, validate_every=6, checkpoint_every=4)
    if objective is not None:
        cfg = cfg.model_copy(update={"objective": objective, "rdrw_window": 64})
    model = tiny_model(made.backbone)
    task = sft_task(model) if objective is None else align_task(model, cfg)
    result = fit(
        task, cfg, seed=0, device="cpu", work=work, identity={}, title="lm", progress=False
    )
    facts = (result.loss, result.best, result.final, result.counts, result.gradient_ratio)
    return model.state_dict(), (facts, task.state_dict())


QUANTISER = {
    "hidden": [16],
    "latent": 8,
    "steps": STEPS,
    "batch_size": 48,
    "log_every": 4,
    "checkpoint_every": 4,
    "restart_every": 3,
    "precision": "fp32",
}


def tokenizer(tokenizer: RqVae, inputs: SidInputs, work: Path) -> Result:
    tokenizer.work = work
    tokenizer.fit(inputs)
    return dict(tokenizer._weights()), tokenizer.history_


def rqvae(made: SimpleNamespace, work: Path) -> Result:
    options = {**QUANTISER, "progressive": True}
    return tokenizer(RqVae((8, 4), options=options), SidInputs(topics(200)), work)


def cqsid(made: SimpleNamespace, work: Path) -> Result:
    return tokenizer(CqSid((16, 8), options={**QUANTISER, "gamma": 0.1}), shop(200).inputs, work)


def acrq(made: SimpleNamespace, work: Path) -> Result:
    """Both stages: steps of the head and then of the tail."""
    counts = np.random.default_rng(0).permutation(200) // 3
    options = {**QUANTISER, "steps": STEPS // 2, "tail_steps": STEPS // 2, "checkpoint_every": 2}
    inputs = SidInputs(topics(200), counts=counts)
    return tokenizer(Acrq((8, 8), options={**options, "log_every": 2}), inputs, work)


TEXTS = ["red mug", "blue mug", "steel pan", "tea pot", "green lid", "towel"]


def dense(made: SimpleNamespace, work: Path, towers: str) -> Result:
    queries, rows = [f"a {text}" for text in TEXTS], [[row] for row in range(len(TEXTS))]
    table = pa.table({"query": queries, "positives": pa.array(rows, pa.list_(pa.int32()))})
    streams = {"query": LogPairs(table, np.ones(len(TEXTS), bool), 0)}
    settings = DenseConfig(
        towers=towers,  # type: ignore[arg-type]  # pydantic checks it
        steps=STEPS,
        batch_size=4,
        lr=3e-3,
        validate_every=4,
        precision="fp32",
        mixture={"query": 1.0},
    )
    embedder = trainable(EmbedConfig(model=made.encoder, dtype="fp32"), "cpu", settings)

    def validate(embedder: Any) -> dict[str, float]:
        """A figure that any other bit of the weights changes, so that the best step may be any."""
        total = sum(float(p.detach().double().sum()) for p in embedder.model.parameters())
        return {"set": float(np.sin(1e3 * total))}

    done = tune(embedder, streams, TEXTS, settings, validate=validate, work=work)
    return embedder.model.state_dict(), (done.best, done.log, done.loss)


USES: dict[str, Callable[[SimpleNamespace, Path], Result]] = {
    "sft": lambda made, work: language_model(made, work, None),
    "raddpo": lambda made, work: language_model(made, work, "raddpo"),
    "dpo": lambda made, work: language_model(made, work, "dpo"),
    "rqvae": rqvae,
    "cqsid": cqsid,
    "acrq": acrq,
    "dense": lambda made, work: dense(made, work, "tied"),
    "towers": lambda made, work: dense(made, work, "two"),
}


class Killed(Exception):
    pass


def logs(work: Path) -> list[dict[str, Any]]:
    """Return the records of all logs below ``work`` without the machine's times."""
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMES}
        for path in sorted(work.rglob("log.jsonl"))
        for line in path.read_text().splitlines()
    ]


def train_and_count(use: str, made: SimpleNamespace, work: Path, dies_at: int = -1) -> Any:
    """Train in ``work``; return the steps taken and the result, or None where step ``dies_at`` of
    this process killed it.
    """
    original, taken = Training._step, []

    def step(self: Any, number: int) -> float:
        if len(taken) == dies_at:
            raise Killed
        taken.append(number)
        return original(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_step", step)
        try:
            return taken, USES[use](made, work)
        except Killed:
            return taken, None


@pytest.mark.parametrize("use", USES)
def test_a_killed_run_continues_and_ends_bit_identical(
    use: str, made: SimpleNamespace, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    steps, (weights, facts) = train_and_count(use, made, tmp_path / "whole")
    assert len(steps) == STEPS
    for dies_at in (2, 7):  # before the first checkpoint, and between two
        work = tmp_path / f"killed-{dies_at}"
        assert train_and_count(use, made, work, dies_at)[1] is None
        again, (same_weights, same_facts) = train_and_count(use, made, work)
        assert len(again) < STEPS or dies_at == 2
        assert weights.keys() == same_weights.keys()
        for name, tensor in weights.items():
            assert torch.equal(tensor, same_weights[name]), (dies_at, name)
        assert facts == same_facts
        assert logs(work) == logs(tmp_path / "whole")
    finished = train_and_count(use, made, tmp_path / "whole")
    assert finished[0] == []  # nothing is trained twice
    assert all(torch.equal(tensor, finished[1][0][name]) for name, tensor in weights.items())


@pytest.mark.parametrize("use", USES)
def test_every_log_has_the_same_columns_and_no_step_is_lost(
    use: str, made: SimpleNamespace, tmp_path: Path
) -> None:
    USES[use](made, tmp_path)
    paths = sorted(tmp_path.rglob("log.jsonl"))
    assert paths
    for path in paths:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        trained = [record for record in records if record["kind"] == "train"]
        assert {"step", "loss", "grad_norm", "lr", "seconds"} <= set(trained[0])
        assert sum(name in trained[0] for name in TIMES[1:]) == 1
        assert trained[-1]["step"] == max(record["step"] for record in records)
        assert any((path.parent / "tensorboard").iterdir())
        assert checkpoint.newest(path.parent / "checkpoints").step == trained[-1]["step"]


@pytest.mark.parametrize("use", ["sft", "dense"])
def test_a_run_of_other_settings_is_refused(
    use: str, made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    USES[use](made, tmp_path)
    monkeypatch.setattr("sidar.fitting.loop.FORMAT", 1)
    with pytest.raises(ValueError, match="format: 2 -> 1"):
        USES[use](made, tmp_path)
