"""Artefact folders: written whole or not at all, and able to say what they are.

A stage writes into a temporary sibling; the manifest (kind, shapes, config, hashes of inputs and
files, code version) is written last, everything is fsynced, and one rename makes the folder appear.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidar.version import __version__

MANIFEST = "manifest.json"
#: Hash of the manifest itself, of folders that are handed on; as ``sha256sum -c`` reads it.
SEAL = "manifest.sha256"


def sha256_file(path: Path) -> str:
    """Hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hash of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """What an artefact folder says of itself. ``hash`` names its content: kind, config, inputs and
    files.

    ``apart`` lists files that are kept and verified like the others but do not count in ``hash``:
    whatever reads the folder for its content stays fresh when only they change.
    """

    kind: str
    config: dict[str, Any]
    inputs: dict[str, str]  # name -> hash of the artefact or file that it was made from
    files: dict[str, str]  # relative path -> sha256
    shapes: dict[str, Any] = field(default_factory=dict)
    code_version: str = ""
    created: str = ""
    seconds: float = 0.0
    apart: dict[str, str] = field(default_factory=dict)  # relative path -> sha256

    @property
    def hash(self) -> str:
        return sha256_json([self.kind, self.config, self.inputs, self.files])


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of ``folder``, or None where there is no finished artefact."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    try:
        return Manifest(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(
            f"{path} is not a manifest ({error}); delete {folder} and run its stage again"
        ) from error


def continues(previous: Path) -> list[str]:
    """Hashes of the artefact in ``previous`` and of those that it continued: what a successor says
    it goes on from.

    A successor keeps the meaning of what it continues: rows of a catalogue, codes of an SID table.
    What was made from a predecessor and holds only that meaning (a language model knows codes, no
    rows) still fits. Empty where ``previous`` has no manifest.
    """
    manifest = read_manifest(previous)
    return [] if manifest is None else [*manifest.shapes.get("continues", []), manifest.hash]


def open_artifact(folder: Path, kind: str, *, verify: bool = False) -> Manifest:
    """The manifest of a finished artefact of ``kind``; ``verify`` re-hashes every file.

    Raises ``ValueError`` that names the folder and the command that makes it.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ValueError(
            f"{folder} holds no finished {kind!r} artefact; make it with `sidar "
            f"{kind.split('-')[0]}`"
        )
    if manifest.kind != kind:
        raise ValueError(f"{folder} holds a {manifest.kind!r} artefact, not {kind!r}")
    if verify:
        _check_seal(Path(folder))
        for name, want in (manifest.files | manifest.apart).items():
            path = Path(folder) / name
            if not path.is_file() or sha256_file(path) != want:
                raise ValueError(
                    f"{path} is missing or differs from its manifest; run the stage {kind!r} again"
                )
    return manifest


def _check_seal(folder: Path) -> None:
    """Hold the manifest against its hash, where there is one (older versions wrote none)."""
    seal = folder / SEAL
    if not seal.exists():
        return
    want = f"{sha256_file(folder / MANIFEST)}  {MANIFEST}\n".encode()
    if not seal.is_file() or seal.read_bytes() != want:
        raise ValueError(f"{folder / MANIFEST} or {seal.name} beside it was changed or damaged")


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to disk."""
    for root, _, names in os.walk(folder):
        for name in [*names, "."]:
            fd = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def replace_file(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a kill leaves the old file or the new one,
    never a part.
    """
    tmp = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with tmp.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)


def replace_folder(tmp: Path, final: Path) -> None:
    """Rename ``tmp`` to ``final``; an older ``final`` is moved aside first and deleted after."""
    aside = final.with_name(f".{final.name}.old-{os.getpid()}")
    if final.exists():
        final.rename(aside)
    tmp.rename(final)
    fd = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    shutil.rmtree(aside, ignore_errors=True)


@dataclass
class Draft:
    """An artefact being written: put files under ``path``, facts into ``shapes``."""

    path: Path
    shapes: dict[str, Any] = field(default_factory=dict)


@contextmanager
def write_artifact(
    folder: Path,
    kind: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
    apart: Collection[str] = (),
    live: Collection[str] = (),
    sealed: bool = False,
) -> Iterator[Draft]:
    """Write an artefact atomically::

    with write_artifact(run / "sid", "sid", config=cfg.sid.model_dump(), inputs={"embed": h}) as
    draft:
        sids.save(draft.path / "sids.parquet")
        draft.shapes["items"] = len(sids)

    Files in the subfolders named in ``apart`` do not count in the manifest's hash; the files
    ``live`` (relative paths) are not in the manifest at all, as they go on changing and check
    themselves. ``sealed``: the folder is handed on, so manifests are verified, too: those inside
    apart, and this one by its hash in :data:`SEAL`.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tmp = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    started = time.monotonic()
    draft = Draft(tmp)
    try:
        yield draft
        hashes = {
            p.relative_to(tmp): sha256_file(p)
            for p in sorted(tmp.rglob("*"))
            if p.is_file()
            and (sealed or p.name != MANIFEST)
            and str(p.relative_to(tmp)) not in live
        }
        beside = {p for p in hashes if p.parts[0] in apart or p.name == MANIFEST}
        files = {str(path): value for path, value in hashes.items() if path not in beside}
        manifest = Manifest(
            kind=kind,
            config=json.loads(json.dumps(dict(config), default=str)),
            inputs=dict(inputs or {}),
            files=files,
            shapes=draft.shapes,
            code_version=__version__,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            seconds=round(time.monotonic() - started, 3),
            apart={str(path): hashes[path] for path in sorted(beside)},
        )
        (tmp / MANIFEST).write_text(
            json.dumps(manifest.__dict__, indent=1, sort_keys=True, default=str) + "\n"
        )
        if sealed:
            (tmp / SEAL).write_text(f"{sha256_file(tmp / MANIFEST)}  {MANIFEST}\n")
        fsync_tree(tmp)
        replace_folder(tmp, folder)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
