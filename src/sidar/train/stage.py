"""How a training stage ends: its files in ``out``, its report, and its interrupted work cleared
away.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidar.lm.model import SidLM
from sidar.train.loop import Fit


def finish(
    train: Callable[[Path], Fit], model: SidLM, out: Path, work: Path | None, extra: dict[str, Any]
) -> dict[str, Any]:
    """Run ``train`` in the work folder, then write ``out``: ``model/``, ``best/``, ``log.jsonl``,
    ``tensorboard/``.

    With ``work`` given its owner deletes it (the pipeline does, once the artefact stands);
    otherwise it goes here.
    """
    folder = work or out.with_name(f".{out.name}.work")
    folder.mkdir(parents=True, exist_ok=True)
    fit = train(folder)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out / "model")
    for name in ("best", "tensorboard"):
        if (folder / name).is_dir():
            shutil.copytree(folder / name, out / name, dirs_exist_ok=True)
    shutil.copyfile(folder / "log.jsonl", out / "log.jsonl")
    if work is None:
        shutil.rmtree(folder)
    weights = sum(p.numel() for p in model.parameters())
    facts = [f"loss {fit.loss:.3f}"]
    if "recall@8" in fit.final:
        facts.append(
            f"valid recall@8 {fit.final['recall@8']:.3f} (best {fit.best['recall@8']:.3f})"
        )
    elif "nll" not in fit.final:
        facts.append(
            "nothing validated (no validation requests), so the final model is also the best"
        )
    if fit.gradient_ratio is not None:
        facts.append(f"contrast/SFT gradient {fit.gradient_ratio:.2f}")
    report = {
        "summary": f"{weights / 1e6:.1f}M weights, " + ", ".join(facts),
        "loss": fit.loss,
        "best": fit.best,
        "final": fit.final,
        "seconds": fit.seconds,
        "counts": fit.counts,
        "gradient_ratio": fit.gradient_ratio,
        "resumed_from": fit.resumed_from,
        **extra,
    }
    keep = ("best", "final", "counts", "gradient_ratio", "resumed_from")
    return {**report, "shapes": {"weights": weights, **{k: report[k] for k in keep}, **extra}}
