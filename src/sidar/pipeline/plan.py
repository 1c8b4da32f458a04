"""Which stages a run has, what each is made from, and which would run now and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidar.answer.memory import FILE as MEMORY
from sidar.artifacts import read_manifest
from sidar.config import GRPO_DEFAULTS, AlignConfig, Config, DenseConfig
from sidar.extensions import CHANNELS, METRICS, OBJECTIVES, REWARDS, TOKENIZERS, Registry
from sidar.pipeline import progressive as progressive_stages
from sidar.pipeline.stage import Build, Stage
from sidar.serve.bundle import ANSWER
from sidar.types import Json

Inputs = Mapping[str, Path]

#: How the dense channel is searched: asked by answer and report, not by the training of its
#: encoder.
DENSE_INDEX = ("dense.index", "dense.coarse_view", "dense.lists", "dense.nprobe")


#: Options of `align` that objectives on logged lists do not read.
REINFORCEMENT = {"reward", "rewards", "rollouts", "grpo", "adagrpo", "eggrpo", "recast"}


def cut_positives(folder: Path, config: Json) -> str | None:
    """Why the data folder of an older version must be built again: it may have cut positives when
    it stored them.
    """
    if not {"preference.max_positives", "sft.max_positives"} & set(config):
        return None
    from sidar.data.training.examples import why_cut

    return why_cut(folder, config)


def without_counts(folder: Path, config: Json) -> str | None:
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
    channels = [CHANNELS.file(name) for name in cfg.channels]
    plugins = [*(str(file) for file in channels if file is not None), *metric_files(cfg)]
    return [*set_files(cfg), *dict.fromkeys(plugins)]


def metric_files(cfg: Config) -> list[str]:
    """The files of plug-ins that bring metrics in use."""
    files = [METRICS.file(name) for name in cfg.evaluate.metrics]
    return [str(file) for file in files if file is not None]


def reinforces(align: AlignConfig) -> bool:
    """Return whether the objective learns from rollouts; of a plug-in's it is not known before it
    runs, and True.
    """
    name = align.objective.removesuffix("+sft")
    return name in GRPO_DEFAULTS or OBJECTIVES.is_external(align.objective)


def rewarded_by_ranker(align: AlignConfig) -> bool:
    """Return whether an aligned model is made with the stage ``ranker``."""
    return align.reward == "ranker" and reinforces(align)


def align_keys(align: AlignConfig) -> list[str]:
    """Return the options that an aligned model depends on: all but the label, and those of a
    plug-in's objective; of reinforcement only where the objective may learn from rollouts.
    """
    left_out = {"label"} if reinforces(align) else {"label", *REINFORCEMENT}
    fields = [field for field in AlignConfig.model_fields if field not in left_out]
    of_plugin = [name for name in align.parts_in_use() if align.section(name) is not None]
    return [f"align.{field}" for field in dict.fromkeys([*fields, *of_plugin])]


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
    cfg: Config,
    aligns: Sequence[AlignConfig] | None = None,
    *,
    dense: bool = False,
    hits: bool = False,
) -> list[Stage]:
    """The stages of a run in order; ``aligns`` are the aligned models wanted (default: the config's
    one).

    The first of them is the one that the bundle serves; without alignment it is the SFT model. The
    stage ``dense`` (the fine-tuned encoder) takes minutes and is a baseline: it is there where it
    was asked for, now (``dense``) or before (its folder stands). With ``progressive.stages``
    alignment starts from the last of these, and ``hits`` adds the hit rates of each.
    """
    aligns = [served_model(cfg)] if aligns is None else aligns
    progressive = progressive_stages.training_stages(cfg)
    start = progressive_stages.start_of_alignment(cfg)
    aligned = [_aligned(align, start, cfg.preference.judge) for align in aligns if align.aligns]
    has_dense = dense or read_manifest(cfg.run_dir / "dense") is not None
    tuned = [_tuned_dense()] if has_dense else []
    models = ("sft", *(stage.name for stage in aligned), *(stage.name for stage in tuned))
    judge = cfg.preference.judge
    rewards = judge == "ranker" or any(rewarded_by_ranker(align) for align in aligns)
    ranker = [_ranker(cfg)] if cfg.ranker.enabled or rewards else []
    measured = [stage.name for stage in (*progressive, *aligned)] if hits else []
    return [
        *_before_alignment(),
        *ranker,
        *progressive,
        *aligned,
        *tuned,
        *_after_alignment(cfg, aligns[0], models),
        *(progressive_stages.hits_stage(name) for name in measured),
    ]


def _before_alignment() -> list[Stage]:
    """Return the stages from the user's files to the SFT model."""
    import sidar.pipeline.stages as run

    read = ("catalogue", "events", "users", "privacy.hash_users", "privacy.salt", "split")
    return [
        Stage(
            "data",
            # of `preference` what decides the lists; the cut to max_positives is made at packing
            (
                *("seed", "warm_start", *read),
                *("preference.negatives", "preference.debias", "data.held_out"),
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
    ]


def _ranker(cfg: Config) -> Stage:
    """Return the stage of the learned ranker; it reads the SFT model where it knows beams.

    It stands before alignment, which may be rewarded by it.
    """
    import sidar.pipeline.stages as run

    keys = ["seed", "ranker", "memory", "decode.beam", "decode.item_share", "embed", *DENSE_INDEX]
    inputs = ["data", "embed", "sid"]
    if cfg.ranker.sft_steps:
        keys += ["lm", "sft"]
        inputs.append("sft")
    return Stage("ranker", tuple(keys), tuple(inputs), run.ranker, files=towers, resumable=True)


def _aligned(align: AlignConfig, start: str, judge: str) -> Stage:
    """Return the stage of one aligned model; ``start``: the folder of the model it starts from,
    ``judge``: the reward that judges its lists, or log.
    """
    import sidar.pipeline.stages as run

    ranker = ("ranker",) if rewarded_by_ranker(align) or judge == "ranker" else ()
    rewards = {align.reward, judge} - {"log"}
    of_judge = [] if judge == "log" else ["align.rewards"]
    return Stage(
        align.folder,
        ("seed", "preference", *dict.fromkeys([*align_keys(align), *of_judge])),
        ("data", "sid", start, *ranker),
        run.aligned_from(start),
        also=("embed",),
        files=lambda cfg: [
            *plugin_of(OBJECTIVES, align.objective)(cfg),
            *(file for name in sorted(rewards) for file in plugin_of(REWARDS, name)(cfg)),
        ],
        resumable=True,
    )


def _tuned_dense() -> Stage:
    """Return the stage of the fine-tuned encoder."""
    import sidar.pipeline.stages as run

    options = [f"dense.{field}" for field in DenseConfig.model_fields]
    trained = [option for option in options if option not in DENSE_INDEX]
    keys = ("seed", "embed", "sft.max_positives", *trained)
    return Stage("dense", keys, ("data",), run.dense, files=towers, resumable=True)


def served_model(cfg: Config) -> AlignConfig:
    """Return the options of the model that the bundle serves: without a log there are no lists to
    align on, and the SFT model is served.
    """
    if cfg.has_log:
        return cfg.align
    if cfg.ranker.enabled or cfg.progressive.stages:
        section = "ranker.enabled" if cfg.ranker.enabled else "progressive.stages"
        raise ValueError(f"{section} learns from a log, and events.path is empty; remove it")
    return cfg.align.without_alignment()


def _after_alignment(cfg: Config, served: AlignConfig, models: Sequence[str]) -> list[Stage]:
    """Return the stages around the model under ``served``; ``models`` are scored beside it."""
    import sidar.pipeline.stages as run

    def of_served(build: Build) -> Build:
        def with_align(cfg: Config, inputs: Inputs, out: Path, work: Path) -> Json:
            return build(cfg.model_copy(update={"align": served}), inputs, out, work)

        return with_align

    serving = ("data", "embed", "sid", "index")
    ranker = ("ranker",) if cfg.ranker.enabled else ()
    # without a log the answer is fitted to judged queries
    judged = () if cfg.has_log else ("evaluate.sets",)
    return [
        Stage("index", (), ("data", "sid"), run.index, outdated=without_counts),
        Stage(
            "answer",
            ("seed", "decode", "memory", "embed", *judged, *DENSE_INDEX),
            (*serving, *ranker, served.folder),
            of_served(run.answer),
            files=set_files if judged else lambda _: [],
        ),
        Stage(
            "bundle",
            ("decode", "embed"),
            (*serving, "answer", served.folder),
            of_served(run.bundle),
            live=(f"{ANSWER}/{MEMORY}",),
            sealed=True,
        ),
        Stage(
            "evaluate",
            ("seed", "decode", "evaluate", "channels", *DENSE_INDEX),
            (*serving, "answer", *models),
            of_served(run.evaluate),
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
    by_name = {a.folder: a for a in ([served_model(cfg)] if aligns is None else aligns)}
    hits = only is not None and only.startswith(progressive_stages.HITS)
    chosen = stages(cfg, aligns, dense=only == "dense", hits=hits)
    if only is not None:
        wanted = _needed({stage.name: stage for stage in chosen}, only)
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


def _needed(table: Mapping[str, Stage], name: str) -> set[str]:
    """Return the names of the stage ``name`` and of all that it needs."""
    if name not in table:
        raise ValueError(f"no stage {name!r} in this run; there are {', '.join(table)}")
    wanted, todo = set[str](), [name]
    while todo:
        needed = todo.pop()
        wanted.add(needed)
        todo += table[needed].inputs
    return wanted
