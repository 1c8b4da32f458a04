"""Which cells there are: every row, seed and axis of the evidence, as specifications that can be
run one by one.

A cell is one model (or baseline) scored on its pools. ``core`` is what two cores can run in 75
minutes (two workers; its cells sum to about two core-hours): the methods, ablations, controls and
baselines; ``full`` adds the twins, noise, the model with one head for all tokens, best checkpoints
and the sweeps. ``tune`` cells choose each method's learning rate and strength on day 7 first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from experiments.raddpo.registration import registration, tuned_settings
from sidar.pipeline.demo import merge
from sidar.pipeline.variants import VARIANTS

#: Rows on other lists instead of RDRW: name → variant of the bed's data (cheap denoisers of
#: docs/evaluation.md, and the truth as the denoiser that no log has).
ON_OTHER_LISTS = {"raddpo-truth": "truth", "raddpo-skip-above": "skip-above", "raddpo-ips": "ips"}
#: Rows of the main table; the first line has the headline's number of seeds.
CONTROL = "sft-continued"
HEADLINE = ("sft", CONTROL, "raddpo")
BASELINES = ("raddpo-paper", "dpo", "simpo", "orpo", "sdpo")
TWINS = ("dpo+sft", "simpo+sft", "sdpo+sft")
ABLATIONS = ("raddpo-no-tlgd", "raddpo-no-rdrw", "raddpo-no-mlsft", "raddpo-pairwise")
CONTROLS = ("raddpo-contrast", "raddpo-constant", "raddpo-shuffled", *ON_OTHER_LISTS)
NOISES = (0.25, 0.5)
NOISED = ("raddpo", "raddpo-no-rdrw", "raddpo-constant", "raddpo-shuffled")
TRAFFIC = ("day8",)
EVERYWHERE = ("day8", "judged_test", "grounded_test")
CHANNELS = ("popularity", "bm25", "dense", "dense-tuned")
FUSIONS = ("bm25+dense", "bm25+dense-tuned")
OWN_POOLS = {"topic-oracle": ("judged_test",), "oracle-utility": TRAFFIC}
CEILINGS = ("quantised-dense", "topic-oracle", "oracle-utility", "oracle-sid")
#: The tuned encoder takes about the CPU time of one SFT (2.3 s a step on one core); the step is
#: chosen on dev queries.
DENSE = {"steps": 150, "validate_every": 75, "valid_queries": 100, "valid_items": 2000}
#: Four sizes of the embedded backbone (table 2's axis): layers × width.
SIZES = {
    "2x192": {"layers": 2, "hidden": 192, "heads": 3, "kv_heads": 3, "intermediate": 512},
    "3x384": {"layers": 3, "hidden": 384, "heads": 6, "kv_heads": 6, "intermediate": 1024},
    "6x384": {"layers": 6, "hidden": 384, "heads": 6, "kv_heads": 6, "intermediate": 1024},
    "8x512": {"layers": 8, "hidden": 512, "heads": 8, "kv_heads": 8, "intermediate": 1408},
}
#: Axes that an SFT model differs by.
SFT_AXES = ("head", "size", "sids", "bed")
#: The shipped RAD-DPO as axes; a test compares them with the defaults of `align`.
SHIPPED = {"beta": 0.5, "lists": 7680, "window": 4096}
#: Codebooks by how many pairs share a first code (more codes, less sharing).
SHARING = ("64/256/256", "2048/128/64")
#: Rows whose invalid mass is measured, and rows that are probed, at the first three seeds; others
#: are probed once.
MEASURED = (*HEADLINE, *BASELINES, "raddpo-no-tlgd", "raddpo-no-rdrw", "raddpo-no-mlsft")


def _looks(system: str, seed: int, axes: dict[str, Any]) -> dict[str, bool]:
    """Which of the costly measurements a cell makes: ``invalid`` (free beams, exact mass) and
    ``probe``.
    """
    plain = not set(axes) - {"head"}
    repeated = system in MEASURED and plain and seed < registration()["bed"]["seeds"]["other"]
    return {"invalid": repeated, "probe": repeated or seed == 0}


@dataclass(frozen=True)
class Cell:
    """What is run: JSON-able, and all that a rerun needs besides the bed.

    ``config`` holds changes to the bed's config (seed, lm, sft, preference, align). ``needs`` names
    cells that must have been run before: the SFT that an alignment starts from, the channels that a
    fusion joins.
    """

    name: str
    system: str
    kind: str  # sft, align, baseline, ceiling
    groups: tuple[str, ...]
    seed: int | None = None
    parent: str | None = None
    needs: tuple[str, ...] = ()
    axes: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    data: str = "base"
    sizes: str = ""
    pools: tuple[str, ...] = TRAFFIC
    fused: bool = False
    invalid: bool = True
    probe: bool = True

    @property
    def spec(self) -> dict[str, Any]:
        """The cell as JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def of(cls, spec: dict[str, Any]) -> Cell:
        """A cell from its ``spec``."""
        return cls(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in spec.items()
            }
        )


def cells(profile: str) -> list[Cell]:
    """The cells of ``tune``, ``core`` or ``full`` (which contains core), parents
    before children.
    """
    if profile == "tune":
        return _unique(_tune())
    found = [*_channels(), *_core()]
    if profile == "full":
        found += _sweeps()
    elif profile != "core":
        raise ValueError(f"no profile {profile!r}; there are tune, core and full")
    return _unique(found)


def _unique(found: list[Cell]) -> list[Cell]:
    """Each name once; a cell that several groups want keeps them all."""
    kept: dict[str, Cell] = {}
    for cell in found:
        if cell.name in kept:
            known = kept[cell.name]
            groups = tuple(dict.fromkeys((*known.groups, *cell.groups)))
            kept[cell.name] = Cell.of({**known.spec, "groups": list(groups)})
        else:
            kept[cell.name] = cell
    return list(kept.values())


# ---------------------------------------------------------------------- one cell


def base_axes() -> dict[str, Any]:
    """The axes of a cell that varies none of them; lists = preference lists seen in alignment."""
    bed = registration()["bed"]
    return {
        "n": bed["settings"]["preference"]["max_negatives"],
        "noise": 0.0,
        "sids": "/".join(map(str, bed["codebooks"])),
        "size": "3x384",
        "head": "level",
        "lists": bed["settings"]["align"]["steps"] * bed["settings"]["align"]["batch_size"],
    }


def _own_rate() -> float:
    """RAD-DPO's learning rate as day 7 chose it; before any tuning the lowest of its grid."""
    return float(
        tuned_settings("raddpo").get(
            "lr_new", registration()["tuning"]["grid"]["raddpo"]["lr_new"][0]
        )
    )


def _suffix(axes: dict[str, Any]) -> str:
    return (
        "@" + ",".join(f"{k}={str(v).replace('/', '-')}" for k, v in axes.items()) if axes else ""
    )


def sft_cell(
    seed: int, groups: tuple[str, ...], *, pools: tuple[str, ...] = TRAFFIC, **axes: Any
) -> Cell:
    """SFT at ``axes`` (head, size, sids)."""
    own = {k: v for k, v in axes.items() if k in SFT_AXES}
    config: dict[str, Any] = {"seed": seed}
    if "head" in own:
        config = merge(config, {"lm": {"head": own["head"]}})
    if "size" in own:
        config = merge(config, {"lm": SIZES[own["size"]]})
    return Cell(
        name=f"sft{_suffix(own)}.s{seed}",
        system="sft",
        kind="sft",
        groups=groups,
        seed=seed,
        axes={**base_axes(), **own},
        config=config,
        sizes=own.get("sids", base_axes()["sids"]),
        pools=pools,
        fused="judged_test" in pools,
        needs=("bm25", "dense-tuned") if "judged_test" in pools else (),
        **_looks("sft", seed, own),
    )


def align_cell(
    system: str,
    seed: int,
    groups: tuple[str, ...],
    *,
    pools: tuple[str, ...] = TRAFFIC,
    **axes: Any,
) -> Cell:
    """``system`` aligned from the SFT of the same seed, head, size and SIDs."""
    parent = sft_cell(seed, (), **axes)
    # a denoiser of the lists takes RDRW's place
    variant = VARIANTS.get(system, VARIANTS["raddpo-no-rdrw"])
    chosen = dict(tuned_settings(system))
    chosen |= {k: axes[k] for k in ("beta", "lam", "lr_new") if k in axes}
    if "lr_new" in chosen:
        chosen["lr_pretrained"] = chosen["lr_new"] * registration()["tuning"]["lr_pretrained_ratio"]
    align = {**variant, **chosen, "label": system}
    if "lists" in axes:
        steps = int(axes["lists"]) // registration()["bed"]["settings"]["align"]["batch_size"]
        align |= {"steps": steps, "validate_every": steps, "checkpoint_every": steps}
    if "state" in axes:
        align["rdrw_state"] = axes["state"]
    if "window" in axes:
        align["rdrw_window"] = axes["window"]
    config = merge(parent.config, {"align": align})
    if "n" in axes:
        config = merge(config, {"preference": {"max_negatives": axes["n"]}})
    noise = axes.get("noise", 0.0)
    data = axes.get("data") or (f"noise-{noise}" if noise else ON_OTHER_LISTS.get(system, "base"))
    return Cell(
        name=f"{system}{_suffix(axes)}.s{seed}",
        system=system,
        kind="align",
        groups=groups,
        seed=seed,
        parent=parent.name,
        needs=(parent.name, *(("bm25", "dense-tuned") if "judged_test" in pools else ())),
        axes={
            **base_axes(),
            **{k: chosen[k] for k in ("lr_new", "beta", "lam") if k in chosen},
            **axes,
        },
        config=config,
        data=data,
        sizes=parent.sizes,
        pools=pools,
        fused="judged_test" in pools,
        **_looks(system, seed, axes),
    )


# ---------------------------------------------------------------------- the profiles


def _sfts(count: int) -> list[Cell]:
    other = registration()["bed"]["seeds"]["other"]
    return [
        sft_cell(s, ("table1",), pools=EVERYWHERE if s < other else TRAFFIC) for s in range(count)
    ]


def _channels() -> list[Cell]:
    def cell(name: str, kind: str, needs: tuple[str, ...] = ()) -> Cell:
        return Cell(
            name,
            name,
            kind,
            ("baselines",),
            needs=needs,
            config={"dense": DENSE} if name == "dense-tuned" else {},
            sizes=base_axes()["sids"],
            pools=OWN_POOLS.get(name, EVERYWHERE),
            invalid=False,
            probe=False,
        )

    found = [cell(name, "baseline") for name in CHANNELS]
    found += [cell(name, "baseline", tuple(name.split("+"))) for name in FUSIONS]
    return found + [cell(name, "ceiling") for name in CEILINGS]


def _tune() -> list[Cell]:
    found = []
    for system, grid in registration()["tuning"]["grid"].items():
        for values in product(*grid.values()):
            cell = align_cell(
                system, 0, ("tune",), pools=("day7",), **dict(zip(grid, values, strict=True))
            )
            named = {
                **cell.spec,
                "name": cell.name.replace(".s0", ".tune"),
                "invalid": False,
                "probe": False,
            }
            found.append(Cell.of(named))
    return found


def _core() -> list[Cell]:
    seeds = registration()["bed"]["seeds"]
    found = _sfts(seeds["headline"])
    for system, seed in product(HEADLINE[1:], range(seeds["headline"])):
        found.append(
            align_cell(
                system, seed, ("table1",), pools=EVERYWHERE if seed < seeds["other"] else TRAFFIC
            )
        )
    for group, systems in (("table1", BASELINES), ("ablations", ABLATIONS), ("controls", CONTROLS)):
        found += [
            align_cell(system, seed, (group,))
            for system, seed in product(systems, range(seeds["other"]))
        ]
    found += [
        align_cell(CONTROL, seed, ("ladder",), lr_new=_own_rate()) for seed in range(seeds["other"])
    ]
    return found + [
        align_cell("raddpo", seed, ("state",), state="item_vector")
        for seed in range(seeds["other"])
    ]


def _sweeps() -> list[Cell]:
    seeds = range(registration()["bed"]["seeds"]["other"])
    found = [
        align_cell(row, seed, ("noise",), noise=n)
        for n, row, seed in product(reversed(NOISES), NOISED, seeds)
    ]
    found += [
        align_cell("raddpo", seed, ("noise",), noise=n, state="item_vector")
        for n, seed in product(NOISES, seeds)
    ]
    found += [align_cell(row, seed, ("twins",)) for row, seed in product(TWINS, seeds)]
    found.append(sft_cell(0, ("head",), head="full"))
    found += [align_cell(system, 0, ("head",), head="full") for system in ("raddpo", "dpo")]
    headline = range(registration()["bed"]["seeds"]["headline"])
    found += [
        align_cell(row, s, ("checkpoint",), checkpoint="best")
        for row, s in product(HEADLINE[1:], headline)
    ]
    found += [align_cell("raddpo-no-mlsft-none", seed, ("ablations",)) for seed in seeds]
    found += [align_cell("raddpo", seed, ("state",), state="last_code") for seed in seeds]
    found += _where_it_must_win(seeds)
    found += _denoisers_at_a_dose(seeds)
    found += shipped(seeds)
    for n, system, seed in product((1, 7, 16), ("raddpo", "raddpo-paper", "simpo", "sdpo"), seeds):
        found.append(align_cell(system, seed, ("n",), n=n))
    for beta, system, seed in product((0.5, 1.0, 2.0, 5.0), ("raddpo", "raddpo-paper"), seeds):
        if beta != tuned_settings(system).get("beta"):  # that one is the base cell
            found.append(align_cell(system, seed, ("beta",), beta=beta))
    for lists, system, seed in product(
        (960, 3840, 7680), ("sft-continued", "dpo", "raddpo"), seeds
    ):
        found.append(align_cell(system, seed, ("lists",), lists=lists))
    # RAD-DPO's tuned rate is three times SFT-continued's: what grows with the rows may be the rate.
    # Planned after the rows were run and before these cells.
    found += [
        align_cell(CONTROL, seed, ("lists",), lists=7680, lr_new=_own_rate()) for seed in seeds
    ]
    for size, seed in product([size for size in SIZES if size != base_axes()["size"]], seeds):
        found.append(sft_cell(seed, ("size",), size=size))
        found += [
            align_cell(system, seed, ("size",), size=size)
            for system in ("sft-continued", "dpo", "raddpo")
        ]
    for sids, seed in product(SHARING, seeds):
        found.append(sft_cell(seed, ("sharing",), sids=sids))
        rows = ("sft-continued", "raddpo", "raddpo-no-tlgd")
        found += [align_cell(system, seed, ("sharing",), sids=sids) for system in rows]
    return found


def shipped(seeds: Iterable[int]) -> list[Cell]:
    """The defaults of `align`, their SFT models, and SFT continued on as many lists at the same
    rate.

    Axis `bed`: k-means in bf16 gives other codes on another kind of CPU, and the machine of the
    kept cells was gone when these were planned. So these cells have SIDs, SFT models and controls
    of their own and are compared with no others.
    """
    found = []
    for seed in seeds:
        found.append(sft_cell(seed, ("shipped",), pools=EVERYWHERE, bed="shipped"))
        control = {"lists": SHIPPED["lists"], "lr_new": _own_rate()}
        for system, axes in ((CONTROL, control), ("raddpo", SHIPPED)):
            found.append(
                align_cell(system, seed, ("shipped",), pools=EVERYWHERE, bed="shipped", **axes)
            )
    return [_without_fusion(cell) for cell in found]


def _without_fusion(cell: Cell) -> Cell:
    """Return ``cell`` without its fusion with channels, and so without a need of theirs."""
    needs = [cell.parent] if cell.parent else []
    return Cell.of({**cell.spec, "fused": False, "needs": needs})


def channel_cell(name: str) -> Cell:
    """The cell of a channel that fusions need."""
    return next(cell for cell in _channels() if cell.name == name)


def sft_parent(cell: Cell) -> Cell | None:
    """The SFT cell that an aligned cell starts from; None for cells that start from nothing."""
    if cell.kind != "align" or cell.seed is None:
        return None
    axes = {k: cell.axes[k] for k in SFT_AXES if cell.axes.get(k) != base_axes().get(k)}
    parent = sft_cell(cell.seed, (), **axes)
    assert parent.name == cell.parent, (parent.name, cell.parent)
    return parent


def _where_it_must_win(seeds: range) -> list[Cell]:
    """The two corners of docs/prefix-lab.md (E), as far as they can be set here, at four times the
    steps and three times the learning rate: negatives without any relevant one (known truth), where
    RAD-DPO must win on true utility, and half of them relevant, where it must lose. SFT-continued
    reads positives alone, so one of it serves both.

    Not set: the lab's share of accidental clicks, negatives from the model's own beam, and its
    small first codebook.
    """
    longer = _longer()
    found = []
    for seed in seeds:
        found.append(align_cell("sft-continued", seed, ("lab",), **longer))
        found.append(align_cell("raddpo", seed, ("lab",), data="clean", **longer))
        found.append(align_cell("raddpo", seed, ("lab",), noise=0.5, **longer))
    return found


def _longer() -> dict[str, Any]:
    """The lab's setting: four times the steps, three times the learning rate."""
    return {"lists": 4 * base_axes()["lists"], "lr_new": float(f"{3 * _own_rate():g}")}


def _denoisers_at_a_dose(seeds: range) -> list[Cell]:
    """RDRW, its controls and the cheap denoisers at the lab's setting, where the negatives' quality
    was seen to matter: on the log's own lists, and on lists with half of the negatives made
    relevant.

    Planned after the corners were run and before any of these cells.
    """
    longer = _longer()
    found = []
    for seed in seeds:
        for row in ("raddpo", *NOISED[1:], "raddpo-truth", "raddpo-skip-above"):
            found.append(align_cell(row, seed, ("dose",), **longer))
        found.append(align_cell("raddpo", seed, ("dose",), state="item_vector", **longer))
        found += [align_cell(row, seed, ("dose",), noise=0.5, **longer) for row in NOISED]
    return found
