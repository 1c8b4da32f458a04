"""A language model of the days before one, for the ranker's features of a training day."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidar.artifacts import read_manifest, sha256_json
from sidar.config import Config
from sidar.data.cleaning.clean import DAY_US
from sidar.types import Json

#: Files of the data folder that do not depend on the day.
_SAME = ("catalogue.arrow", "report.json")


def data_before(data: Path, day: int, out: Path) -> Path:
    """Write into ``out`` what SFT reads of ``data``, as if the log ended before ``day`` (since
    1970): the training rows of earlier days, and no validation lists.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in _SAME:
        (out / name).symlink_to((data / name).resolve())
    rows = pq.read_table(data / "sft.parquet")
    pq.write_table(rows.filter(pc.less(rows.column("ts"), day * DAY_US)), out / "sft.parquet")
    lists = pq.read_schema(data / "lists.parquet")
    pq.write_table(lists.empty_table(), out / "lists.parquet")
    return out


def train_before(cfg: Config, inputs: Mapping[str, Path], day: int, work: Path) -> Path:
    """Train ``ranker.sft_steps`` steps on the log before ``day`` and return the model's folder.

    Interrupted work in ``work`` is continued, and a finished model is taken as it is, where both
    are of the same settings and inputs.
    """
    from sidar.train import train_sft

    steps = cfg.ranker.sft_steps
    sft = cfg.sft.model_copy(update={"steps": steps, "validate_every": steps})
    made_from: Json = {
        "day": day,
        "seed": cfg.seed,
        "sft": sft.model_dump(mode="json"),
        "lm": cfg.lm.model_dump(mode="json"),
        "inputs": {name: _hash(inputs[name]) for name in ("data", "embed", "sid")},
    }
    folder = work / sha256_json(made_from)[:12]
    done = folder / "done"
    if not done.is_file():
        data = data_before(inputs["data"], day, folder / "data")
        changed = cfg.model_copy(update={"sft": sft})
        parts = (data, inputs["embed"], inputs["sid"], folder / "out")
        train_sft(changed, *parts, work=folder / "steps")
        done.touch()
    return folder / "out" / "model"


def _hash(folder: Path) -> str:
    """What a stage's folder holds; its path where no pipeline wrote a manifest."""
    manifest = read_manifest(folder)
    return str(folder.resolve()) if manifest is None else manifest.hash
