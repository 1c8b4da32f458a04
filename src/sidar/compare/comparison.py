"""What the methods of a comparison share, and how one of their stages is run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sidar.artifacts import read_manifest, write_artifact
from sidar.compare.methods import Method
from sidar.config import Config
from sidar.data import open_dataset
from sidar.pipeline.plan import stages
from sidar.pipeline.runtime import discard_work, work_folder
from sidar.sid import load_sids
from sidar.types import SemanticIds

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = "compare-sids"
SHARED = ("data", "embed", ".embed.cache")


@dataclass
class MethodRun:
    """One method with one seed: its folder and config, or the stage that ``failed``."""

    method: Method
    seed: int
    folder: Path
    config: Config
    failed: str = ""
    error: str = ""

    def sids(self) -> SemanticIds:
        """Return the SID table of the method."""
        item_ids = open_dataset(self.folder / "data").catalogue.item_ids
        return load_sids(self.folder / "sid" / "sids.parquet", item_ids)

    def seconds(self, stage: str) -> float:
        """Return the CPU seconds, of all threads, that a stage took when it was made."""
        manifest = read_manifest(self.folder / stage)
        return float(manifest.shapes.get("cpu_seconds", 0.0)) if manifest else 0.0


@dataclass
class Comparison:
    """What all methods share: the config, the reference's sizes and bits, and where to write."""

    cfg: Config
    align: bool
    first_seed: int
    console: Console | None = None
    bits: float | None = None  # per item, of the reference
    sizes: tuple[int, ...] | None = None
    made: list[str] = field(default_factory=list)  # stages that were not up to date

    @property
    def root(self) -> Path:
        return self.cfg.run_dir / FOLDER

    @property
    def model(self) -> str:
        """Return the stage whose model is measured."""
        return self.cfg.align.folder if self.align else "sft"

    def print(self, text: str) -> None:
        """Print ``text`` where there is a console."""
        if self.console:
            self.console.print(text)

    def method_folder(self, method: Method, seed: int) -> Path:
        """Return the folder of one method and seed."""
        return self.root / method.folder / f"seed-{seed}"

    def open_folder(self, method: Method, seed: int) -> Path:
        """Make that folder, with links to what all methods share; return it."""
        folder = self.method_folder(method, seed)
        folder.mkdir(parents=True, exist_ok=True)
        (self.cfg.run_dir / ".embed.cache").mkdir(exist_ok=True)
        for name in SHARED:
            link = folder / name
            if not link.is_symlink():
                link.symlink_to(Path("../../..") / name, target_is_directory=True)
        return folder

    def run_stage(self, name: str, run: MethodRun) -> None:
        """Run the stage ``name`` of a method unless its folder is up to date."""
        cfg, folder = run.config, run.folder
        (stage,) = [stage for stage in stages(cfg) if stage.name == name]
        if stage.why_stale(cfg, folder) is None:
            return
        started, cpu = time.monotonic(), time.process_time()
        inputs = stage.input_hashes(cfg, folder)
        config = stage.config(cfg)
        out = folder / name
        with write_artifact(out, name, config=config, inputs=inputs, apart=stage.apart) as draft:
            report = stage.build(cfg, stage.folders(folder), draft.path, work_folder(out))
            draft.shapes.update(report.get("shapes", {}))
            draft.shapes["cpu_seconds"] = round(time.process_time() - cpu, 2)
        discard_work(out)
        label = out.relative_to(self.root).as_posix()
        self.made.append(label)
        took = time.monotonic() - started
        self.print(f"{label:<28} {report.get('summary', '')} [dim]({took:.1f} s)[/dim]")
