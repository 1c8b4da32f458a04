"""Progressive training as stages of a run, and the table of hit rates after each.

The folder of a stage spells the stages that it came through (``progressive-s1s3``), so that runs
that leave stages out stand side by side and share what they have in common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sidar.config import Config
from sidar.data.dataset import Dataset
from sidar.pipeline.stage import Build, Stage
from sidar.types import Json, Request

Inputs = Mapping[str, Path]

#: Beams of the hit rates [source: N1].
BEAMS = (1, 10, 100)
#: What a request's hit is: a product that it chose, or any that it showed.
KINDS = ("click", "exposure")
FILE = "hits.json"
#: How the names of their folders begin.
HITS = "hits-"


def folders_of(cfg: Config) -> list[str]:
    """Return the folders of the stages S1 … S3 that ``progressive.stages`` names, in order."""
    names = [name for name in cfg.progressive.stages if name != "s4"]
    return ["progressive-" + "".join(names[: place + 1]) for place in range(len(names))]


def start_of_alignment(cfg: Config) -> str:
    """Return the folder whose model alignment (S4) starts from."""
    return next(reversed(folders_of(cfg)), "sft")


def training_stages(cfg: Config) -> list[Stage]:
    """Return the stages S1 … S3, each from the last."""
    stages: list[Stage] = []
    for folder in folders_of(cfg):
        name, start = folder[-2:], stages[-1].name if stages else None
        keys = ("seed", "lm", f"progressive.{name}", "sft.max_positives")
        stages.append(
            Stage(
                folder,
                keys if start else (*keys, "warm_start"),
                ("data", "embed", "sid", *((start,) if start else ())),
                _train(name, start),
                resumable=True,
            )
        )
    return stages


def _train(name: str, start: str | None) -> Build:
    def build(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
        from sidar.train import train_progressive

        before = None if start is None else inputs[start]
        data, embed, sids = inputs["data"], inputs["embed"], inputs["sid"]
        return train_progressive(cfg, name, data, embed, sids, before, out, work=work)

    return build


def hits_folder(model: str) -> str:
    """Return the folder of the hit rates of the model in the folder ``model``."""
    return HITS + model


def hits_stage(model: str) -> Stage:
    """Return the stage that measures the model in the folder ``model``."""

    def build(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
        rates = measure(cfg, inputs, model)
        (out / FILE).write_text(json.dumps(rates, indent=1) + "\n")
        return {"summary": _summary(rates), "shapes": {"requests": rates["requests"]}}

    keys = ("seed", "decode", "progressive.requests")
    return Stage(hits_folder(model), keys, ("data", "embed", "sid", "index", model), build)


def measure(cfg: Config, inputs: Inputs, model: str) -> Json:
    """Return hit rates of the test requests: ``{prompts: {kind: {"1" | … | "1000 items": rate}}}``.

    Prompts are personalised, or the query alone (semantic). Rates 1, 10 and 100 are at equal beam;
    under truncation the SIDs of the beam are expanded in their order, inside an SID by efficiency
    (training clicks; [reconstruction], docs/methods/cqsid.md), and cut at 1,000 items.
    """
    from sidar.baselines.channel import SidSystem
    from sidar.evaluate.measures.hitrate import TRUNCATED, equal_beam, semantic, truncated
    from sidar.evaluate.measures.truth import Truth
    from sidar.pipeline.rows.systems import RunParts, generative_rows

    beam = max(cfg.decode.beam, *BEAMS)
    wide = {"decode": cfg.decode.model_copy(update={"beam": beam})}
    parts = RunParts(cfg.model_copy(update=wide), inputs)
    requests, index = _asked(parts.dataset, cfg.progressive.requests), parts.index
    system = generative_rows(parts, [(model, inputs[model] / "model")])[model]
    assert isinstance(system, SidSystem)  # a model that writes SIDs
    rates: Json = {"requests": len(requests), "beam": beam}
    personalised = [request.prompt for request in requests]
    for mode, prompts in (("personalised", personalised), ("semantic", semantic(personalised))):
        ranked = system.sid_ranking(prompts, beam)[0]
        rates[mode] = {}
        for kind in KINDS:
            starts, things, grades = _relevant(requests, kind)
            truth = Truth(starts, things, grades, len(parts.dataset.catalogue))
            equal = equal_beam(truth, index, ranked, BEAMS)
            cut = truncated(truth, index, ranked)
            values = {str(width): equal[f"hit@{width}"] for width in BEAMS}
            values[f"{TRUNCATED} items"] = cut["hit"]
            rates[mode][kind] = {name: float(value.mean()) for name, value in values.items()}
    return rates


def _asked(dataset: Dataset, most: int) -> list[Request]:
    """Return test requests with text that chose something, at most ``most`` of them, by hash."""
    from sidar.evaluate.slices import subset_by_hash

    found = [r for r in dataset.requests("test") if r.prompt.query.strip() and any(r.actions)]
    if not found:
        raise ValueError(
            "no test request has a query and a chosen product, so there are no hit rates; see "
            "split.* for what is tested"
        )
    kept = subset_by_hash([request.request_id for request in found], most)
    return [found[place] for place in kept]


def _relevant(requests: Sequence[Request], kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts (Q + 1,), catalogue rows and grades 1 of what makes a request's hit."""
    least = 1 if kind == "click" else 0
    rows = [
        np.unique([row for row, action in zip(r.rows, r.actions, strict=True) if action >= least])
        for r in requests
    ]
    starts = np.concatenate([[0], np.cumsum([len(some) for some in rows])]).astype(np.int64)
    things = np.concatenate(rows).astype(np.int64)
    return starts, things, np.ones(len(things), np.float32)


def _summary(rates: Json) -> str:
    """Return the line that a run prints of a model's hit rates."""
    click = rates["personalised"]["click"]
    return f"{rates['requests']:,} requests, click hit rate @10 {click['10']:.3f}"
