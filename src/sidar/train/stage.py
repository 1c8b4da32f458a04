"""How a training stage ends: its files in ``out``, its report, and its interrupted work cleared
away.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidar.fitting.picture import Panel, draw_curves, read_records
from sidar.lm.model import SidLM
from sidar.train.loop import Fit

PANELS = (
    Panel("Loss", (("loss", "total"), ("loss/sft", "SFT term"), ("loss/contrast", "contrast"))),
    Panel("Validation, nats per prompt", (("nll", "negative log-likelihood"),)),
    Panel(
        "Validation, shares",
        (("recall@8", "recall@8"), ("pairs/accuracy", "pairs in the right order")),
        "share",
    ),
    Panel("Gradient norm", (("grad_norm", "before clipping"),)),
)


@contextmanager
def work_folder(out: Path, work: Path | None) -> Iterator[Path]:
    """The folder of a stage's interrupted work, which is there from now on.

    With ``work`` given its owner deletes it (the pipeline does, once the artefact stands);
    otherwise it lies beside ``out`` and goes when the stage has ended well.
    """
    folder = work or out.with_name(f".{out.name}.work")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    if work is None:
        shutil.rmtree(folder)


def keep_log(folder: Path, out: Path) -> None:
    """Copy the log of a training from its work folder."""
    if (folder / "tensorboard").is_dir():
        shutil.copytree(folder / "tensorboard", out / "tensorboard", dirs_exist_ok=True)
    shutil.copyfile(folder / "log.jsonl", out / "log.jsonl")


def draw_log(out: Path, panels: Sequence[Panel], headline: str) -> None:
    """Draw the log of a training as ``fit.png``."""
    draw_curves(read_records(out / "log.jsonl"), panels, out / "fit.png", [headline])


def finish(
    train: Callable[[Path], Fit],
    model: SidLM,
    out: Path,
    work: Path | None,
    extra: dict[str, object],
    panels: Sequence[Panel] = PANELS,
) -> dict[str, Any]:
    """Run ``train`` in the work folder, then write ``out``: ``model/``, ``best/``, ``log.jsonl``,
    ``tensorboard/``, ``fit.png``.
    """
    with work_folder(out, work) as folder:
        fit = train(folder)
        out.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(out / "model")
        if (folder / "best").is_dir():
            shutil.copytree(folder / "best", out / "best", dirs_exist_ok=True)
        keep_log(folder, out)
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
    summary = f"{weights / 1e6:.1f}M weights, " + ", ".join(facts)
    draw_log(out, panels, summary)
    report = {
        "summary": summary,
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
