"""Which stages a run has, what each is made from, and which of them are missing or stale.

A stage is fresh when its folder's manifest names the same config values and the same input hashes
that the stage would be run with now; anything else is run again, and the plan says why. An option
that is newer than the folder counts as having had its default: an upgrade makes nothing stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sidar.answer.memory import FILE as MEMORY
from sidar.artifacts import read_manifest, sha256_file, sha256_json
from sidar.config import AlignConfig, Config, DenseConfig, Extensible
from sidar.extensions import CHANNELS, METRICS, OBJECTIVES, TOKENIZERS, Registry
from sidar.serve.bundle import ANSWER

#: Files up to this size are compared by content, larger ones by size and modification time.
HASH_LIMIT = 64 << 20
#: How the dense channel is searched: asked by answer and report, not by the training of its
#: encoder.
DENSE_INDEX = ("dense.index", "dense.coarse_view", "dense.lists", "dense.nprobe")
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
    run: Callable[[Config, Path, Path], dict[str, Any]]  # (config, run folder, folder to write)
    files: Callable[[Config], Iterable[str]] = lambda cfg: ()
    resumable: bool = False  # keeps interrupted work beside its folder and continues it
    # subfolders that do not count in its hash, so that no stage goes stale by them
    apart: tuple[str, ...] = ()
    live: tuple[str, ...] = ()  # files that go on changing after the stage and check themselves
    #: Why the folder that an older version wrote cannot be used, from the folder and its manifest's
    #: config.
    outdated: Callable[[Path, dict[str, Any]], str | None] = lambda folder, config: None

    def config(self, cfg: Config) -> dict[str, Any]:
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


def unset_align_options(cfg: Config) -> dict[str, Any]:
    """Return the values of :data:`ONCE_NULL` that the objective of ``cfg`` uses where the config
    gives none.
    """
    unset = AlignConfig(objective=cfg.align.objective).resolved(cfg.sft)
    return {key: getattr(unset, key.removeprefix("align.")) for key in ONCE_NULL}


def changes(keys: Sequence[str], before: dict[str, Any]) -> str:
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


def differs(key: str, before: Any, now: Any) -> bool:
    """Whether an option changed; a path that was written before it was anchored is the same when it
    ends alike.
    """
    if now is None and key in ONCE_DEFAULT and before == ONCE_DEFAULT[key]:
        return False
    if key == "privacy.salt" and before != now and masked(before) == now:
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
    return bool(before != now)


def options(config: dict[str, Any]) -> dict[str, Any]:
    """``{"sft": {"steps": 5}}`` → ``{"sft.steps": 5}``: a stage's config, option by option.

    Only sections are opened: the keys of a mapping that the user fills (``events.columns``) are no
    options.
    """
    found = {}
    for key, value in config.items():
        part: Any = Config()
        plugin = False
        for name in key.split("."):
            plugin = isinstance(part, Extensible) and name not in type(part).model_fields
            part = getattr(part, name, None)
        if (plugin or isinstance(part, BaseModel)) and isinstance(value, dict):
            found.update(options({f"{key}.{name}": inner for name, inner in value.items()}))
        else:
            found[key] = value
    return found


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


def cut_positives(folder: Path, config: dict[str, Any]) -> str | None:
    """Why the data folder of an older version must be built again: it may have cut positives when
    it stored them.
    """
    if not {"preference.max_positives", "sft.max_positives"} & set(config):
        return None
    from sidar.data.examples import why_cut

    return why_cut(folder, config)


def without_counts(folder: Path, config: dict[str, Any]) -> str | None:
    """Why an index of an older version is made again: it does not hold the clicks that shares are
    made from.
    """
    from safetensors import safe_open

    from sidar.index.prefix import FILE

    if not (folder / FILE).is_file():
        return None
    with safe_open(folder / FILE, framework="numpy") as file:
        counted = "counts" in file.keys()  # noqa: SIM118 (not a mapping)
    return (
        None
        if counted
        else "an older version wrote it without the clicks that items share an SID by"
    )


def input_files(cfg: Config) -> list[str]:
    """The user's own files that the data stage reads.

    With ``data.held_out: null`` the files of ``evaluate.sets`` are read once and are no inputs:
    what is scored may change without new training data.
    """
    paths = [cfg.catalogue.path, cfg.events.path, cfg.users.path]
    paths += [held.queries for held in cfg.data.held_out or []]
    return [path for path in paths if path]


def set_files(cfg: Config) -> list[str]:
    """The user's own files of evaluation sets."""
    return list(
        dict.fromkeys(path for each in cfg.evaluate.sets for path in (each.queries, each.qrels))
    )


def evaluate_files(cfg: Config) -> list[str]:
    """The user's own files that the evaluate stage reads: sets, and plug-ins in use."""
    plugins = [CHANNELS.file(name) for name in cfg.channels]
    plugins += [METRICS.file(name) for name in cfg.evaluate.metrics]
    return [*set_files(cfg), *dict.fromkeys(str(file) for file in plugins if file is not None)]


def align_keys(align: AlignConfig) -> list[str]:
    """Return the options that an aligned model depends on: all but the label, and those of a
    plug-in's objective.
    """
    fields = [field for field in AlignConfig.model_fields if field != "label"]
    of_plugin = [name for name in align.parts_in_use() if align.section(name) is not None]
    return [f"align.{field}" for field in [*fields, *of_plugin]]


def plugin_of(registry: Registry[Any], name: str) -> Callable[[Config], list[str]]:
    """Return what a stage reads besides its inputs where a plug-in brings the part ``name``: the
    plug-in's file.
    """
    file = registry.file(name)
    return lambda cfg: [] if file is None else [str(file)]


def sid_files(cfg: Config) -> list[str]:
    """Return the path of the imported SID table, or the file of a plug-in that brings the
    tokenizer.
    """
    if cfg.sid.method == "table" and cfg.sid.table.path:
        return [cfg.sid.table.path]
    file = TOKENIZERS.file(cfg.sid.method)
    return [] if file is None else [str(file)]


def towers(cfg: Config) -> list[str]:
    """A folder of two towers is made by a run, and may be made again under the same name."""
    from sidar.embed.towers import has_towers

    return [cfg.embed.model] if has_towers(cfg.embed.model) else []


def stages(
    cfg: Config, aligns: Sequence[AlignConfig] | None = None, *, dense: bool = False
) -> list[Stage]:
    """The stages of a run in order; ``aligns`` are the aligned models wanted (default: the config's
    one).

    The first of them is the one that the bundle serves. The stage ``dense`` (the fine-tuned
    encoder) takes minutes and is a baseline: it is there where it was asked for, now (``dense``) or
    before (its folder stands).
    """
    import sidar.pipeline.stages as run

    aligns = [cfg.align] if aligns is None else aligns
    aligned = [
        Stage(
            align.folder,
            ("seed", "preference", *align_keys(align)),
            ("data", "sid", "sft"),
            run.align,
            files=plugin_of(OBJECTIVES, align.objective),
            resumable=True,
        )
        for align in aligns
    ]
    models = ("sft", *(stage.name for stage in aligned))
    served_by = aligned[0].name
    tuned = []
    if dense or read_manifest(cfg.run_dir / "dense") is not None:
        trained = (
            f"dense.{field}"
            for field in DenseConfig.model_fields
            if f"dense.{field}" not in DENSE_INDEX
        )
        tuned = [
            Stage(
                "dense",
                ("seed", "embed", "sft.max_positives", *trained),
                ("data",),
                run.dense,
                files=towers,
                resumable=True,
            )
        ]

    def served(cfg: Config) -> Config:
        return cfg.model_copy(update={"align": aligns[0]})

    def answered(cfg: Config, folder: Path, out: Path) -> dict[str, Any]:
        return run.answer(served(cfg), folder, out)

    def bundled(cfg: Config, folder: Path, out: Path) -> dict[str, Any]:
        return run.bundle(served(cfg), folder, out)

    def evaluated(cfg: Config, folder: Path, out: Path) -> dict[str, Any]:
        return run.evaluate(served(cfg), folder, out, models=models)

    return [
        Stage(
            "data",
            (
                *("seed", "warm_start"),
                *("catalogue", "events", "users", "privacy.hash_users", "privacy.salt", "split"),
                # the cut to max_positives is made at packing
                *("preference.negatives", "preference.debias"),
                "data.held_out",
            ),
            (),
            run.data,
            files=input_files,
            apart=("eval",),
            outdated=cut_positives,
        ),
        Stage("embed", ("embed",), ("data",), run.embed, files=towers),
        Stage(
            "sid",
            ("seed", "warm_start", "sid"),
            ("data", "embed"),
            run.sid,
            files=sid_files,
            resumable=True,
        ),
        Stage(
            "sft",
            ("seed", "warm_start", "lm", "sft", "embed.fields"),
            ("data", "embed", "sid"),
            run.sft,
            resumable=True,
        ),
        *aligned,
        *tuned,
        Stage("index", (), ("data", "sid"), run.index, outdated=without_counts),
        Stage(
            "answer",
            ("seed", "decode", "memory", "embed", *DENSE_INDEX),
            ("data", "embed", "sid", "index", served_by),
            answered,
        ),
        Stage(
            "bundle",
            ("decode", "embed"),
            ("data", "embed", "sid", "index", "answer", served_by),
            bundled,
            live=(f"{ANSWER}/{MEMORY}",),
        ),
        Stage(
            "evaluate",
            ("seed", "decode", "evaluate", "channels", *DENSE_INDEX),
            ("data", "embed", "sid", "index", "answer", *models, *(stage.name for stage in tuned)),
            evaluated,
            files=evaluate_files,
        ),
    ]


@dataclass(frozen=True)
class Step:
    """A stage with its own config (each aligned model has its own ``align`` section) and why it
    runs.
    """

    stage: Stage
    config: Config
    reason: str | None  # None = fresh, skipped


def plan(
    cfg: Config, aligns: Sequence[AlignConfig] | None = None, *, only: str | None = None
) -> list[Step]:
    """The steps of a run in order. A stage downstream of one that runs is planned to run as well.

    ``only`` restricts the plan to the named stage and those it needs.
    """
    by_name = {a.folder: a for a in ([cfg.align] if aligns is None else aligns)}
    chosen = stages(cfg, aligns, dense=only == "dense")
    if only is not None:
        wanted, todo = set(), [only]
        table = {stage.name: stage for stage in chosen}
        if only not in table:
            raise ValueError(f"no stage {only!r} in this run; there are {', '.join(table)}")
        while todo:
            name = todo.pop()
            wanted.add(name)
            todo += table[name].inputs
        chosen = [stage for stage in chosen if stage.name in wanted]
    steps: list[Step] = []
    running: set[str] = set()
    for stage in chosen:
        own = (
            cfg.model_copy(update={"align": by_name[stage.name]}) if stage.name in by_name else cfg
        )
        reason = stage.why_stale(own, cfg.run_dir)
        before = [name for name in stage.inputs if name in running]
        if before and reason is None:
            reason = f"{before[0]} runs first"
        if reason is not None:
            running.add(stage.name)
        steps.append(Step(stage, own, reason))
    return steps
