"""A stage of a run: what it is made from, and why its folder is stale.

A stage is fresh when its folder's manifest names the same config values and the same input hashes
that the stage would be run with now. An option that is newer than the folder counts as having had
its default: an upgrade makes nothing stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sidar.artifacts import read_manifest, sha256_file, sha256_json
from sidar.config import AlignConfig, Config, Extensible
from sidar.pipeline.runtime import folders
from sidar.types import Json

#: (config, folders of the inputs by name, folder to write, folder for interrupted work) -> report.
Build = Callable[[Config, Mapping[str, Path], Path, Path], Json]

#: Files up to this size are compared by content, larger ones by size and modification time.
HASH_LIMIT = 64 << 20
#: Paths that older versions wrote as they stood in the file; today they are anchored to the file's
#: folder.
ONCE_RELATIVE = ("warm_start", "embed.model", "lm.backbone")
#: Defaults that older versions wrote, for keys that are null today and mean the same windows.
ONCE_DEFAULT = {"split.valid_day": -2, "split.test_day": -1}

#: Options that older versions recorded as null where the objective used a default; today their
#: value is recorded.
ONCE_NULL = ("align.beta", "align.gamma", "align.lam", "align.positives")


@dataclass(frozen=True)
class Stage:
    """One arrow of the picture in docs/concepts.md: config keys and input folders decide what it
    leaves in ``name``.
    """

    name: str
    keys: tuple[str, ...]  # dotted config keys that decide its content
    inputs: tuple[str, ...]  # stages whose folders it reads
    build: Build
    # stages whose folders it reads as well, where its inputs decide what these hold
    also: tuple[str, ...] = ()
    files: Callable[[Config], Iterable[str]] = lambda cfg: ()
    resumable: bool = False  # keeps interrupted work beside its folder and continues it
    # subfolders that do not count in its hash, so that no stage goes stale by them
    apart: tuple[str, ...] = ()
    live: tuple[str, ...] = ()  # files that go on changing after the stage and check themselves
    sealed: bool = False  # its folder is handed on, so its manifest has a hash beside it
    #: Why the folder that an older version wrote cannot be used, from the folder and its manifest's
    #: config.
    outdated: Callable[[Path, Json], str | None] = lambda folder, config: None

    def folders(self, run: Path) -> dict[str, Path]:
        """Return the folders that it reads, by the names of their stages."""
        return folders(run, (*self.inputs, *self.also))

    def config(self, cfg: Config) -> Json:
        """The part of the config that this stage depends on, with the values of today's defaults,
        not their nulls.
        """
        dumped = cfg.resolved().model_dump(mode="json")
        dumped["privacy"]["salt"] = masked(dumped["privacy"]["salt"])
        chosen = {}
        for key in self.keys:
            value: Any = dumped
            *parents, last = key.split(".")
            for part in parents:
                value = value[part]
            if last in value:  # defaults lack the sections of plug-ins
                chosen[key] = value[last]
        return chosen

    def input_hashes(self, cfg: Config, run: Path) -> dict[str, str]:
        """Hashes of what it reads; an input that is not there yet is ``missing``."""
        hashes = {}
        for name in self.inputs:
            manifest = read_manifest(run / name)
            hashes[name] = manifest.hash if manifest else "missing"
        for path in self.files(cfg):
            name, content = f"file:{Path(path).name}", fingerprint(Path(path))
            hashes[name] = sha256_json([hashes[name], content]) if name in hashes else content
        return hashes

    def why_stale(self, cfg: Config, run: Path) -> str | None:
        """None when the folder is up to date, else the reason in words."""
        manifest = read_manifest(run / self.name)
        if manifest is None:
            return "missing"
        before, now = options(manifest.config), options(self.config(cfg))
        default = options(self.config(Config())) | unset_align_options(cfg)
        changed = [key for key in now if differs(key, before.get(key, default.get(key)), now[key])]
        if changed:
            return changes(changed, before)
        if reason := self.outdated(run / self.name, manifest.config):
            return reason
        hashes = self.input_hashes(cfg, run)
        # A file that is no longer read counts by its config key: older data stages also read the
        # evaluation sets.
        before = {
            name: value
            for name, value in manifest.inputs.items()
            if name in hashes or name[:5] != "file:"
        }
        changed = [name for name in hashes | before if before.get(name) != hashes.get(name)]
        return "input changed: " + ", ".join(changed) if changed else None


def unset_align_options(cfg: Config) -> Json:
    """Return the values of :data:`ONCE_NULL` that the objective of ``cfg`` uses where the config
    gives none.
    """
    unset = AlignConfig(objective=cfg.align.objective).resolved(cfg.sft)
    return {key: getattr(unset, key.removeprefix("align.")) for key in ONCE_NULL}


def changes(keys: Sequence[str], before: Json) -> str:
    """Say that ``keys`` changed since a folder was written with ``before``.

    A null of an option in :data:`ONCE_NULL` is said apart: the version that wrote it did not record
    the value it used. After a change of the objective it is no riddle, because an objective leaves
    options that it does not read at null.
    """
    unknown = [key for key in keys if key in ONCE_NULL and key in before and before[key] is None]
    if "align.objective" in keys:
        unknown = []
    known = [key for key in keys if key not in unknown]
    reasons = ["config changed: " + ", ".join(known)] if known else []
    if unknown:
        verb, value = ("was", "value") if len(unknown) == 1 else ("were", "values")
        names = ", ".join(unknown)
        reasons.append(
            f"{names} {verb} recorded as null by an older version, which does not say which "
            f"{value} it used"
        )
    return "; ".join(reasons)


def masked(secret: str) -> str:
    """Return what a manifest says of a secret: whether it changed, not what it is.

    Manifests leave with bundles.
    """
    return f"secret {sha256_json(['sidar', secret])[:8]}" if secret else ""


def differs(key: str, before: object, now: object) -> bool:
    """Whether an option changed; a path that was written before it was anchored is the same when it
    ends alike.
    """
    if now is None and key in ONCE_DEFAULT and before == ONCE_DEFAULT[key]:
        return False
    if before == now or not isinstance(before, str) or not isinstance(now, str):
        return before != now
    if key == "privacy.salt" and masked(before) == now:
        return False  # an older version wrote the salt itself
    if (
        key in ONCE_RELATIVE
        and before
        and now
        and not Path(before).is_absolute()
        and Path(now).is_absolute()
    ):
        tail = [part for part in Path(before).parts if part != ".."]
        return list(Path(now).parts[-len(tail) :]) != tail
    return True


def options(config: Json) -> Json:
    """``{"sft": {"steps": 5}}`` → ``{"sft.steps": 5}``: a stage's config, option by option.

    Only sections are opened: the keys of a mapping that the user fills (``events.columns``) are no
    options.
    """
    found = {}
    for key, value in config.items():
        if isinstance(value, dict) and _is_section(key):
            found.update(options({f"{key}.{name}": inner for name, inner in value.items()}))
        else:
            found[key] = value
    return found


def _is_section(key: str) -> bool:
    """Return whether a dotted key names a section of the config, or of a plug-in in it."""
    section: Any = Config()
    names = key.split(".")
    for depth, name in enumerate(names, start=1):
        if not isinstance(section, BaseModel):
            return False
        if name not in type(section).model_fields:
            return isinstance(section, Extensible) and depth == len(names)
        section = getattr(section, name)
    return isinstance(section, BaseModel)


def fingerprint(path: Path) -> str:
    """What a file or folder of the user's holds: content hash, or size and time for large files."""
    if path.is_dir():
        return sha256_json(
            {
                str(p.relative_to(path)): fingerprint(p)
                for p in sorted(path.rglob("*"))
                if p.is_file()
            }
        )
    if not path.exists():
        matches = sorted(path.parent.glob(path.name)) if any(c in path.name for c in "*?[") else []
        return sha256_json({p.name: fingerprint(p) for p in matches}) if matches else "missing"
    stat = path.stat()
    return sha256_file(path) if stat.st_size <= HASH_LIMIT else f"{stat.st_size}:{stat.st_mtime_ns}"
