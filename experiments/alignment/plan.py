"""Which cells there are: one per method, setting and seed; ``core`` runs seed by seed, so that a
partial run is still paired.

A cell is an SFT model, or an alignment of the SFT model of its seed, scored on the requests of
day 8. ``tune`` cells are scored on day 7 and choose the settings of every method.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from experiments.raddpo.plan import Cell
from experiments.raddpo.registration import registration, tuned_settings
from sidar.pipeline.demo import merge

CONTROL = "sft-continued"


def methods(profile: str) -> dict[str, dict[str, Any]]:
    """Return {row: its ``align`` settings} of ``core``, or of ``all`` that ``core`` lacks."""
    return registration()["methods"][profile]


def sizes() -> str:
    """The registered codebooks, as a folder's name is made of them."""
    return "/".join(map(str, registration()["bed"]["codebooks"]))


def sft_cell(seed: int, steps: int | None = None) -> Cell:
    """Return SFT of a seed; ``steps`` asks for another length, to show the plateau."""
    config: dict[str, Any] = {"seed": seed}
    name = "sft"
    if steps is not None:
        every = steps // 8
        config["sft"] = {"steps": steps, "validate_every": every, "checkpoint_every": steps}
        name = f"sft@steps={steps}"
    axes = {} if steps is None else {"steps": steps}
    return Cell(
        f"{name}.s{seed}", "sft", "sft", ("core",), seed, axes=axes, config=config, sizes=sizes()
    )


def align_cell(system: str, seed: int, profile: str, chosen: dict[str, Any] | None = None) -> Cell:
    """Return ``system`` aligned from the SFT model of ``seed``.

    ``chosen``: settings of a tuning run; None = those that day 7 chose.
    """
    parent = sft_cell(seed)
    settings = tuned_settings(system) if chosen is None else chosen
    row = dict(methods(profile)[system])
    preference = row.pop("preference", {})
    # what the row itself is goes before what day 7 chose for the row that it varies
    align = {**merge(expanded(settings), row), "label": system}
    return Cell(
        f"{system}.s{seed}",
        system,
        "align",
        (profile,),
        seed,
        parent=parent.name,
        needs=(parent.name,),
        axes=dict(settings),
        config=merge(parent.config, {"align": align, "preference": preference}),
        sizes=sizes(),
    )


def expanded(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a grid as ``align`` settings: a rate of new parts sets both rates."""
    align: dict[str, Any] = {}
    for name, value in settings.items():
        section, _, inner = name.partition(".")
        align = merge(align, {section: {inner: value}} if inner else {name: value})
    if "lr_new" in align:
        ratio = registration()["tuning"]["lr_pretrained_ratio"]
        align["lr_pretrained"] = align["lr_new"] * ratio
    return align


def tune_cells(profile: str) -> list[Cell]:
    """Return the runs that choose each method's settings on day 7, all from the SFT of seed 0."""
    cells = []
    for system, grid in registration()["tuning"]["grid"][profile].items():
        for chosen in grid:
            cell = align_cell(system, 0, profile, chosen)
            setting = ",".join(f"{name}={value}" for name, value in chosen.items())
            cells.append(
                replace(
                    cell,
                    name=f"{system}@{setting}.tune",
                    groups=("tune",),
                    pools=("day7",),
                    invalid=False,
                )
            )
    return cells


def cells(profile: str, seeds: Iterable[int] | None = None) -> list[Cell]:
    """Return the cells of a profile, seed by seed: ``plateau``, ``core`` or ``all``, or the tuning
    runs of these two (``tune``, ``tune-all``).
    """
    if profile in ("tune", "tune-all"):
        return tune_cells("core" if profile == "tune" else "all")
    count = registration()["bed"]["seeds"]
    if profile == "plateau":
        return [sft_cell(0), *(sft_cell(0, steps) for steps in registration()["plateau"]["steps"])]
    headline = range(count["headline"]) if seeds is None else seeds
    if profile == "core":
        systems = methods("core")
        return [
            cell
            for seed in headline
            for cell in (sft_cell(seed), *(align_cell(name, seed, "core") for name in systems))
        ]
    if profile == "all":
        others = range(count["other"]) if seeds is None else seeds
        return [align_cell(name, seed, "all") for seed in others for name in methods("all")]
    raise ValueError(f"no profile {profile!r}; there are plateau, tune, core, tune-all, all")
