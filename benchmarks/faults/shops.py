"""The bundles of the experiment: one that is given, or the toy shop's, and marked copies of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import yaml

from sidar import pipeline
from sidar.artifacts import MANIFEST, open_artifact, write_artifact
from sidar.config import load_config
from sidar.data import toy
from sidar.data.catalogue import open_catalogue, save_catalogue
from sidar.types import Catalogue

#: A model of a few seconds; what is tested is everything around it.
TOY = {
    "name": "shop",
    "threads": 1,
    "device": "cpu",
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "events.parquet"},
    "embed": {"model": "hashing:64"},
    "lm": {
        **{"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 2, "intermediate": 64},
        "text_embeddings": "random",
    },
    "sft": {"steps": 3, "batch_size": 8, "validate_every": 3, "valid_requests": 4},
    "align": {"steps": 2, "batch_size": 4, "validate_every": 2, "valid_requests": 4},
    "memory": {"requests": 60},
}
KEY = "memory.key"


def toy_bundle(folder: Path) -> Path:
    """Run the toy shop in ``folder`` as far as its bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    toy.write_inputs(folder)
    (folder / "sidar.yaml").write_text(yaml.safe_dump(TOY))
    cfg = load_config(folder / "sidar.yaml")
    pipeline.run(cfg, only="bundle")
    return cfg.run_dir / "bundle"


def marked(bundle: Path, out: Path, mark: str) -> Path:
    """Copy a bundle so that every title ends in ``[mark]``: a hit says which copy it is from."""
    manifest = open_artifact(bundle, "bundle")
    with write_artifact(
        out,
        "bundle",
        config=manifest.config | {"mark": mark},
        inputs=manifest.inputs,
        live=("answer/memory.parquet",),
        sealed=True,
    ) as draft:
        for file in sorted(path for path in bundle.rglob("*") if path.is_file()):
            name = file.relative_to(bundle)
            if str(name) not in (MANIFEST, "manifest.sha256"):
                (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, draft.path / name)
        place = draft.path / "catalogue" / "catalogue.arrow"
        catalogue = open_catalogue(bundle / "catalogue" / "catalogue.arrow")
        place.unlink()
        save_catalogue(_marked(catalogue, mark), place)
        draft.shapes.update(manifest.shapes)
    key = bundle.parent / KEY
    if key.is_file() and not (out.parent / KEY).exists():
        shutil.copyfile(key, out.parent / KEY)
        os.chmod(out.parent / KEY, 0o600)
    return out


def mark_of(title: str) -> str:
    """Return the mark at the end of a title, empty where there is none."""
    return title.rpartition("[")[2].rstrip("]") if title.endswith("]") else ""


def _marked(catalogue: Catalogue, mark: str) -> Catalogue:
    table = catalogue.table
    titles = [f"{title} [{mark}]" for title in table.column("title").to_pylist()]
    place = table.schema.get_field_index("title")
    column = pa.chunked_array([pa.array(titles, table.schema.field("title").type)])
    return Catalogue(
        table.set_column(place, table.schema.field("title"), column), catalogue.lineage
    )
