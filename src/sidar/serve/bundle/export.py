"""A bundle that leaves the machine: a copy that stands alone, with rare pairs of query and item
left out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidar.answer.memory import FILE as MEMORY
from sidar.answer.memory import Memory
from sidar.artifacts import MANIFEST, open_artifact, write_artifact
from sidar.serve.bundle.layout import ANSWER, FACTS
from sidar.serve.bundle.reader import open_bundle
from sidar.types import PathLike


@dataclass(frozen=True)
class Export:
    """What left: ``pairs`` of query and item in the copy, ``left_out`` not; both None where there
    is no memory.
    """

    folder: Path
    min_users: int
    pairs: int | None = None
    left_out: int | None = None

    def lines(self) -> list[str]:
        """The export in words."""
        lines = [f"{self.folder} stands alone: no file is shared with the run"]
        if self.pairs is None:
            return [*lines, "it holds no memory of queries"]
        return [
            *lines,
            f"memory: {self.pairs:,} pairs of query and item; {self.left_out:,} of fewer than "
            f"{self.min_users} users were left out",
            (
                "the key of the memory is not in it: give memory.key apart, and set "
                "SIDAR_MEMORY_KEY where it serves"
            ),
        ]


def export_bundle(
    bundle: PathLike, out: PathLike, min_users: int, examples: Sequence[str] | None = None
) -> Export:
    """Copy ``bundle`` to ``out`` without links, its memory without the pairs that fewer than
    ``min_users`` users chose.

    Only files that the bundle's manifest names are copied, so nothing that lies there by accident
    leaves. ``examples``: example queries in the place of the bundle's.  An earlier bundle in
    ``out`` is replaced. Raises ``ValueError`` where ``out`` is anything else that exists, or
    ``min_users`` is below 1.
    """
    bundle, out = Path(bundle).resolve(), Path(out).resolve()
    if min_users < 1:
        raise ValueError(f"min_users must be at least 1, got {min_users}")
    if bundle == out or bundle in out.parents or out in bundle.parents:
        raise ValueError(f"{out} and the bundle {bundle} overlap; name another folder")
    if out.exists() and not (out / FACTS).is_file():
        raise ValueError(f"{out} exists and is no bundle; name another folder")
    opened = open_bundle(bundle)
    manifest = open_artifact(bundle, "bundle")
    parts = [path.relative_to(bundle) for path in bundle.glob(f"*/{MANIFEST}")]
    kept = left_out = None
    memory = f"{ANSWER}/{MEMORY}"
    with write_artifact(
        out,
        "bundle",
        config=manifest.config,
        inputs=manifest.inputs,
        live=(memory,),
        sealed=True,
    ) as draft:
        for name in {*map(Path, manifest.files | manifest.apart), *parts}:
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, draft.path / name)
        if opened.fuse != "none":
            whole = Memory.load(bundle / ANSWER)
            thinned = whole.for_export(min_users)
            thinned.save(draft.path / ANSWER)
            kept, left_out = thinned.n_pairs, whole.n_pairs - thinned.n_pairs
        if examples is not None:
            facts = json.loads((draft.path / FACTS).read_text()) | {"examples": list(examples)}
            (draft.path / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        draft.shapes.update(manifest.shapes)
    return Export(out, min_users, kept, left_out)
