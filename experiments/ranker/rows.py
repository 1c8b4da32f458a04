"""The rows of the ranker's experiment: what is fitted once for a language model, and for a seed.

Channels answer every prompt once and keep the answer, because each seed asks the same.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ranker import models
from sidar.answer.facts import GENERATIVE
from sidar.answer.smoothed import SmoothedMemory
from sidar.baselines import DEPTH, System
from sidar.config import Config
from sidar.data import open_dataset
from sidar.evaluate.stats import paired_test
from sidar.pipeline.rows.answer_log import read_log, run_key
from sidar.pipeline.rows.answer_rows import AnswerSystem, CandidatePrior, MemorySystem
from sidar.pipeline.rows.memory_row import MemoryFirst, fit_memory_row
from sidar.pipeline.rows.ranked_row import RankerSystem, open_ranked
from sidar.pipeline.rows.ranker_parts import RankerParts, Window, read_window
from sidar.pipeline.rows.ranker_tables import Tables, ranker_tables
from sidar.ranker.features import FeatureMaker, Pairs
from sidar.ranker.fit import fit_ranker
from sidar.ranker.learner import ndcg
from sidar.ranker.store import Ranker
from sidar.types import Hits, Prompt

STAGES = ("data", "embed", "sid", "index")


class Kept(System):
    """A channel that keeps what it answered in ``file``."""

    def __init__(self, channel: System, file: Path) -> None:
        self.name, self._channel, self._file = channel.name, channel, file
        self._found: dict[Prompt, Hits] = {}
        if file.is_file():
            self._found = pickle.loads(file.read_bytes())

    def hits(self, prompts: Sequence[Prompt], k: int) -> Hits:
        new = [one for one in dict.fromkeys(prompts) if one not in self._found]
        if new:
            hits = self._channel.hits(new, DEPTH)
            self._found |= {one: hits.take([q]) for q, one in enumerate(new)}
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_bytes(pickle.dumps(self._found))
        found = [self._found[one] for one in prompts]
        width = max((hits.rows.shape[1] for hits in found), default=0)
        steps = None
        if found and all(hits.level_logp is not None for hits in found):
            steps = _stacked([hits.level_logp for hits in found], width, 0.0)[:, :k]
        rows = _stacked([hits.rows for hits in found], width, -1)[:, :k]
        return Hits(rows, _stacked([hits.scores for hits in found], width, 0.0)[:, :k], None, steps)


def _stacked(parts: Sequence[Any], width: int, empty: float) -> np.ndarray:
    """(Q, width, …) arrays (1, k, …) one below another, filled up with ``empty``."""
    out = np.full((len(parts), width, *parts[0].shape[2:]), empty, parts[0].dtype)
    for q, part in enumerate(parts):
        out[q, : part.shape[1]] = part[0]
    return out


@dataclass(frozen=True)
class KeptParts(RankerParts):
    """The parts of a ranker whose channels keep what they answered in ``kept``."""

    kept: Path = Path()

    @cached_property
    def base(self) -> dict[str, System]:
        found = RankerParts.base.func(self)  # type: ignore[attr-defined]
        return {name: Kept(one, self.kept / f"{name}.pkl") for name, one in found.items()}

    def model(self, name: str, folder: Path, clicks: np.ndarray) -> System:  # type: ignore[override]
        return Kept(super().model(name, folder, clicks), self.kept / f"{name}.pkl")


@dataclass(frozen=True)
class Scene:
    """The demo around one language model, or around none: log, channels and tables."""

    cfg: Config
    inputs: Mapping[str, Path]
    parts: KeptParts
    window: Window
    tables: Tables
    channels: dict[str, System]
    features: dict[bytes, np.ndarray] = field(default_factory=dict)

    @property
    def log(self) -> Any:
        return self.parts.log


def make_scene(bed: Any, work: Path, seed: int, steps: int) -> Scene:
    """Make tables and channels around the language model of ``seed``; ``steps`` 0 = without one."""
    cfg = models.config(bed, seed, steps or 1)
    name = f"model-{seed}-{steps}" if steps else "without-model"
    wanted = {"enabled": True, "residual": True, "sft_steps": steps, "learner": "lambdamart"}
    options = cfg.ranker.model_copy(update=wanted)
    cfg = cfg.model_copy(update={"runs": str(work / "runs"), "name": name, "ranker": options})
    run = cfg.run_dir
    run.mkdir(parents=True, exist_ok=True)
    inputs = {stage: bed.run / stage for stage in STAGES}
    made = run / "models"
    if steps:
        inputs["sft"] = models.sft(bed, work, seed, steps).parent
        made = models.folder(work, seed, steps, "auxiliary")
    dataset = open_dataset(inputs["data"])
    log = read_log(cfg, inputs["data"], run_key(cfg), run / ".log")
    parts = KeptParts(cfg, inputs, dataset, log, run / "kept")
    window = read_window(cfg, dataset, run / ".window")
    file = run / "tables.pkl"
    if not file.is_file():
        file.write_bytes(pickle.dumps(ranker_tables(parts, window, made)))
    channels = dict(parts.base)
    if steps:
        clicks = dataset.priors().clicks
        channels[GENERATIVE] = parts.model("sft", inputs["sft"] / "model", clicks)
    return Scene(cfg, inputs, parts, window, pickle.loads(file.read_bytes()), channels)


def fitted(scene: Scene, seed: int, name: str) -> tuple[Path, dict[str, Any]]:
    """Fit a seed's ranker, ``ranker`` on the smoothed answer or ``ranker-alone``, choose on day 7,
    and return its folder and what day 7 said.

    The channels are those of the tables, so that λ is chosen once, by :func:`fit_ranker`.
    """
    out = scene.cfg.run_dir / f"{name}-{seed}"
    facts = out / "day7.json"
    if facts.is_file():
        return out, json.loads(facts.read_text())
    train, valid = scene.tables.train, scene.tables.valid
    if name == "ranker-alone":
        train, valid = replace(train, prior=None), replace(valid, prior=None)
    options, levels = scene.cfg.ranker, scene.tables.levels
    one = fit_ranker(options, "answer", levels, train, valid, seed=seed)
    learnt = {"requests": sum(len(day.requests) for day in scene.window.days)}
    out.mkdir(parents=True, exist_ok=True)
    Ranker(one.use, one.levels, one.learner, {**one.facts, **learnt}).save(out)
    about: dict[str, Any] = {"learner": one.learner.name, "day7": day7(scene, one)}
    about |= {key: one.facts.get(key) for key in ("rounds", "gain", "shrinkage")}
    facts.write_text(json.dumps(about, indent=1) + "\n")
    return out, about


def day7(scene: Scene, ranker: Ranker) -> dict[str, Any]:
    """Return the lead of a ranker over the smoothed answer on day 7, by nDCG@10 with the gains of
    click, cart and order; ``better``: what `decode.fuse: auto` answers with.
    """
    valid = scene.tables.valid
    prior = valid.prior
    assert prior is not None  # the demo's log has clicks
    scores = ranker.scores(valid.features)
    if ranker.shrinkage is not None:
        taken = np.repeat(ranker.shrinkage.of(prior.seen), valid.sizes)
        scores = prior.logs + taken * scores
    labels = np.unique(prior.queries, return_inverse=True)[1]
    mine, theirs = ndcg(valid, scores), ndcg(valid, prior.logs)
    found: dict[str, Any] = {"ndcg@10": float(mine.mean()), "answer": float(theirs.mean())}
    everything = np.ones(len(prior.seen), bool)
    for part, some in (("all", everything), ("seen", prior.seen), ("unseen", ~prior.seen)):
        test = paired_test(mine[some], theirs[some], labels[some])
        found[part] = {"effect": test.effect, "low": test.low, "high": test.high}
    found["better"] = "ranker" if found["all"]["low"] > 0 else "memory"
    return found


class KeptMaker(FeatureMaker):
    """The features of a maker, each table computed once for all seeds."""

    def __init__(self, maker: FeatureMaker, found: dict[bytes, np.ndarray]) -> None:
        self.__dict__.update(maker.__dict__)
        self._maker, self._found = maker, found

    def table(
        self,
        prompts: Sequence[Prompt],
        query_vectors: np.ndarray,
        pairs: Pairs,
        generative: Hits | None = None,
        own: Sequence[Mapping[int, float]] | None = None,
    ) -> np.ndarray:
        asked = pickle.dumps((tuple(prompts), pairs.starts, pairs.rows))
        key = hashlib.sha256(asked).digest()
        if key not in self._found:
            self._found[key] = self._maker.table(prompts, query_vectors, pairs, generative, own)
        return self._found[key]


def _params(scene: Scene) -> Any:
    assert scene.tables.params is not None  # the demo's log has clicks
    return scene.tables.params


def rows_of(scene: Scene, rankers: Mapping[str, Path]) -> dict[str, System]:
    """Return the rows by name, all with the counts up to the day before the test."""
    parts, log = scene.parts, scene.log
    clicks, alive = parts.dataset.priors().clicks, parts.items.alive
    prior = CandidatePrior(parts.dataset.priors().prior, list(parts.base.values()))
    asked = [channel.hits(log.asked.prompts, DEPTH) for channel in parts.base.values()]
    chosen = fit_memory_row(log, [*asked, prior.over(asked)], parts.dataset.catalogue)
    table = MemoryFirst(log.memory, log.secret, alive, chosen.half_life)
    smoothed = SmoothedMemory(_params(scene), clicks, alive, log.memory, log.secret)
    rows: dict[str, System] = {
        **parts.base,
        "prior": prior,
        "memory": MemorySystem(table, [*parts.base.values(), prior], chosen.fusion),
        "answer": AnswerSystem("answer", scene.channels, smoothed),
    }
    if GENERATIVE in scene.channels:
        rows["sft"] = scene.channels[GENERATIVE]
    for name, folder in rankers.items():
        ranked = open_ranked(folder, scene.inputs, parts.dataset, parts.lexical, smoothed)
        ranked.maker = KeptMaker(ranked.maker, scene.features)
        rows[name] = RankerSystem(scene.channels, ranked, parts.embedder)
    return rows
