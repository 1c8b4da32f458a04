"""The stage ``ranker``: learn to rank from the last training days, with what the days before them
say, and choose on the validation day.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sidar.config import Config
from sidar.data import open_dataset
from sidar.pipeline.rows.answer_log import read_log, run_key
from sidar.pipeline.rows.ranker_parts import RankerParts, Window, read_window
from sidar.pipeline.rows.ranker_tables import Tables, ranker_tables
from sidar.pipeline.rows.shown_lists import ShownLists
from sidar.ranker.calibration import Calibration
from sidar.ranker.diagnosis import diagnose, page_of
from sidar.ranker.features import FeatureMaker
from sidar.ranker.fit import fit_ranker, prior_of
from sidar.ranker.store import Ranker
from sidar.types import Json

#: Stem of the files of the diagnosis.
DIAGNOSIS = "diagnosis"


def ranker(cfg: Config, inputs: Mapping[str, Path], out: Path, work: Path) -> Json:
    """Write ``ranker-answer.*``, ``ranker-reward.*``, ``memory.parquet`` of the training days, BM25
    and ``diagnosis.*`` into ``out``.

    With ``ranker.sft_steps`` a second language model is trained on the days before those that the
    ranker learns from; interrupted work is continued.
    """
    dataset = open_dataset(inputs["data"])
    log = read_log(cfg, inputs["data"], run_key(cfg), work / "log")
    window = read_window(cfg, dataset, work / "window")
    parts = RankerParts(cfg, inputs, dataset, log)
    rankers, reports = fit_rankers(parts, window, ranker_tables(parts, window, work))
    for one in rankers.values():
        one.save(out)
    (out / f"{DIAGNOSIS}.json").write_text(json.dumps(reports, indent=1) + "\n")
    (out / f"{DIAGNOSIS}.md").write_text(page_of(reports))
    log.before.save(out)
    parts.lexical.save(out)
    return _report(rankers, window)


def fit_rankers(
    parts: RankerParts, window: Window, tables: Tables
) -> tuple[dict[str, Ranker], dict[str, Json]]:
    """Fit the ranker of the answer and that of the reward, calibrate both on what the validation
    window showed, and diagnose them there.
    """
    cfg = parts.cfg
    known = parts.known(None, parts.dataset.priors().clicks)
    lists = ShownLists.of(window.valid, parts.items.alive)
    prompts, vectors = [one.prompt for one in window.valid], parts.encode(window.valid)
    rankers: dict[str, Ranker] = {}
    reports: dict[str, Json] = {}
    for use in ("answer", "reward"):
        one = fit_ranker(
            cfg.ranker,
            use,
            tables.levels,
            tables.train,
            tables.valid,
            seed=cfg.seed,
            threads=cfg.threads or 1,
        )
        maker = FeatureMaker(one.columns, known, parts.lexical, parts.vectors)
        # beams of the shown items are not asked for: they are NaN, as for what no beam reaches
        scores = one.scores(maker.table(prompts, vectors, lists.pairs))
        if one.shrinkage is not None and tables.posterior is not None:
            prior = prior_of(tables.posterior, prompts, lists.pairs)
            weights = np.repeat(one.shrinkage.of(prior.seen), lists.pairs.sizes)
            scores = prior.logs + weights * scores
        calibration = Calibration.fit(scores, lists.chosen)
        reports[use] = diagnose(lists.shown(parts, window.valid, scores))
        facts = {
            "requests": sum(len(day.requests) for day in window.days),
            "held_out": window.held_out,
            "debias": "none" if window.propensity is None else "ips",
            "days": [day.day for day in window.days],
            "sft_steps": cfg.ranker.sft_steps,
            "embed": cfg.embed.model_dump(mode="json"),
            "key_file": cfg.memory.key_file,
            "calibration": [calibration.slope, calibration.offset],
        }
        rankers[use] = Ranker(one.use, one.levels, one.learner, {**one.facts, **facts})
    return rankers, reports


def _report(rankers: Mapping[str, Ranker], window: Window) -> Json:
    """What the stage prints, and what its manifest says."""
    learnt = sum(len(day.requests) for day in window.days)
    lines = [
        f"learnt from {learnt:,} requests of {len(window.days)} day(s), chosen on "
        f"{len(window.valid):,}; debias {rankers['answer'].facts['debias']}"
    ]
    for use, one in rankers.items():
        worth = ", ".join(
            f"{name} {value:.3f}"
            for name, value in one.facts["valid_ndcg@10"].items()
            if value is not None
        )
        lines.append(f"{use}: {one.learner.name} of nDCG@10 {worth or 'not measured'}")
        if (taken := one.shrinkage) is not None:
            lines[-1] += f", added to the smoothed answer by {taken.seen:g} where the query was "
            lines[-1] += f"asked before and {taken.unseen:g} elsewhere"
    if not window.held_out:
        lines.append(
            "WARNING: there is no validation window, so the ranker was chosen on a fifth of the "
            "requests of its own last day"
        )
    shapes = {
        "requests": learnt,
        "valid_requests": len(window.valid),
        "learner": {use: one.learner.name for use, one in rankers.items()},
        "levels": rankers["answer"].levels,
    }
    return {"summary": "\n".join(lines), "shapes": shapes}
