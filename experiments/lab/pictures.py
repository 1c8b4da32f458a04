"""The lab's pictures, readable at 700 pixels of width."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import mechanisms, predictions
from experiments.lab.figures import Figures

COLOURS = ("#1b6ca8", "#d1495b", "#e9a03b", "#3a7d44", "#7b4ea3", "#111111", "#8c8c8c")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
}
STYLE |= {"legend.frameon": False, "svg.hashsalt": "lab", "axes.titlelocation": "left"}


def sheet(rows: int, columns: int, height: float, **more: object) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(
        rows, columns, figsize=(7, height), squeeze=False, layout="constrained", **more
    )
    return figure, list(axes.flat)


def save(figure: Figure, folder: Path, name: str) -> None:
    figure.savefig(folder / f"lab-{name}.png", dpi=130, metadata={"Software": None})
    plt.close(figure)


def bars(axis: Axes, figures: Figures, x: list[float], names: list[str], **style: object) -> None:
    """A line through means with 95 % intervals."""
    mean, low, high = zip(*(figures.band(name) for name in names), strict=True)
    below = [m - v for m, v in zip(mean, low, strict=True)]
    above = [v - m for m, v in zip(mean, high, strict=True)]
    axis.errorbar(
        x, mean, yerr=(below, above), capsize=2, lw=1.5, elinewidth=1, marker="o", ms=3.5, **style
    )


def squeezing(figures: Figures, folder: Path) -> None:
    titles = {
        "star": "log π of y_w*",
        "others": "log π of the other positives",
        "negatives": "log π of negatives",
        "unseen": "log π of relevant, never clicked",
        "argmax": "mass of the top SID",
    }
    figure, axes = sheet(2, 3, 4.6)
    for axis, (key, title) in zip(axes, titles.items(), strict=False):
        for name, colour in zip(mechanisms.METHODS, COLOURS, strict=True):
            steps = sorted(
                {
                    int(k.split("step=")[1].split("/")[0])
                    for k in figures
                    if k.startswith(f"A/{name}/step=")
                }
            )
            line = "--" if name in ("dpo+sft", "raddpo-paper") else "-"
            axis.plot(
                steps,
                [figures[f"A/{name}/step={s}/{key}"] for s in steps],
                line,
                color=colour,
                label=name,
            )
        axis.set_title(title)
        axis.set_xlabel("step")
    axes[-1].axis("off")
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center", title="objective")
    save(figure, folder, "a-squeezing")


def truncation(figures: Figures, folder: Path) -> None:
    panels = {
        "ndcg@10": "nDCG@10, TLGD on − off",
        "invalid.mass": "invalid mass, on − off",
        "oscillation": "level-1 oscillation, on / off",
    }
    figure, axes = sheet(1, 3, 2.5)
    x = list(mechanisms.SHARES)
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        if key == "oscillation":
            ratio = [
                figures[f"B/share={s}/on/{key}"] / figures[f"B/share={s}/off/{key}"] for s in x
            ]
            axis.plot(x, ratio, marker="o", ms=3.5, color=COLOURS[0])
            axis.axhline(1, color="#999999", lw=0.8)
        else:
            bars(axis, figures, x, [f"B/share={s}/on-off/{key}" for s in x], color=COLOURS[0])
            axis.axhline(0, color="#999999", lw=0.8)
        axis.set_title(title)
        axis.set_xlabel("pairs that share the first code")
    save(figure, folder, "b-tlgd")


def readings(figures: Figures, folder: Path) -> None:
    figure, axes = sheet(1, 2, 3.0)
    x = list(range(len(mechanisms.NS)))
    for beta, colour in zip(mechanisms.BETAS, COLOURS, strict=False):
        for name, line in zip(mechanisms.FORMS, ("-", "--"), strict=True):
            at = [f"C/{name}/n={n}/beta={beta:g}" for n in mechanisms.NS]
            label = f"β = {beta:g}" if line == "-" else None
            axes[0].plot(
                x, [figures[f"{a}/start/ratio"] for a in at], line, color=colour, marker="o", ms=3.5
            )
            bars(
                axes[1],
                figures,
                x,
                [f"{a}-sft/best.mrr" for a in at],
                ls=line,
                color=colour,
                label=label,
            )
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-4, 5)
    axes[0].axhline(0.01, color="#999999", lw=0.8)
    axes[0].text(0, 0.0085, "under 1 %: inactive", va="top", fontsize=8, color="#555555")
    axes[0].set_title("‖∇L_PL‖ / ‖∇L_SFT‖ at the SFT policy")
    axes[1].axhline(0, color="#999999", lw=0.8)
    axes[1].set_title("MRR of the best item − SFT-continued")
    axes[1].plot([], [], "-", color="#555555", label="softmax")
    axes[1].plot([], [], "--", color="#555555", label="printed")
    axes[1].legend(ncols=2, fontsize=8, loc="upper left")
    low, high = axes[1].get_ylim()
    axes[1].set_ylim(low, high + 0.55 * (high - low))
    for axis in axes:
        axis.set_xticks(x, [str(n) for n in mechanisms.NS])
        axis.set_xlabel("negatives n")
    save(figure, folder, "c-readings")


def rdrw(figures: Figures, folder: Path) -> None:
    figure, axes = sheet(1, 2, 3.3)
    noises = [n for n in predictions.NOISES if n > 0]
    shown = {f"auc={auc:g}": f"RDRW, AUC {auc:g}" for auc in (0.5, 0.7, 0.9, 1.0)}
    shown = {"none": "without RDRW", "constant": "constant .75", **shown}
    greys = {"none": "#111111", "constant": "#8c8c8c"}
    blues = iter(("#bcd7ea", "#76aed3", "#2f7fb8", "#0b3d66"))
    for i, (key, label) in enumerate(shown.items()):
        at = list(predictions.NOISES)
        names = [f"D/noise={n}/{key if n or key in greys else 'auc=0.5'}-sft/ndcg@10" for n in at]
        colour = greys.get(key) or next(blues)
        x = [n + 0.004 * (i - 2.5) for n in at]
        bars(
            axes[0],
            figures,
            x,
            names,
            color=colour,
            label=label,
            ls="--" if key == "constant" else "-",
        )
    axes[0].set_title("nDCG@10, RAD-DPO − SFT-continued")
    axes[0].set_xlabel("share of pseudo-negatives")
    axes[0].legend(fontsize=8)
    for noise, colour in zip(noises, COLOURS, strict=False):
        x = [auc + 0.004 * (noise > 0.2) + 0.004 * (noise > 0.4) for auc in predictions.AUCS]
        names = [f"D/noise={noise}/auc={auc:g}-constant/ndcg@10" for auc in predictions.AUCS]
        bars(axes[1], figures, x, names, color=colour, label=f"{noise:.0%} pseudo-negatives")
    axes[1].axhline(predictions.VISIBLE, color="#999999", lw=0.8, ls=":")
    axes[1].text(
        1.0,
        predictions.VISIBLE,
        "seen on 2,000 queries",
        va="bottom",
        ha="right",
        fontsize=8,
        color="#555555",
    )
    axes[1].set_title("nDCG@10, RDRW − constant .75")
    axes[1].set_xlabel("AUC of the similarity")
    axes[1].set_ylim(top=0.0082)
    axes[1].legend(fontsize=8, loc="upper left")
    for axis in axes:
        axis.axhline(0, color="#999999", lw=0.8)
    save(figure, folder, "d-rdrw")


def effect_map(figures: Figures, folder: Path) -> None:
    axis_of = predictions.MAP
    figure, axes = sheet(3, 3, 6.0, sharex=True, sharey=True)
    places = [(noise, share) for noise in axis_of["noise"] for share in axis_of["share"]]
    for axis, (noise, share) in zip(axes, places, strict=True):
        for i, informative in enumerate(axis_of["informative"]):
            for j, steps in enumerate(axis_of["sft_steps"]):
                cell = {
                    "share": share,
                    "noise": noise,
                    "informative": informative,
                    "sft_steps": steps,
                }
                mean, low, high = figures.band(f"{predictions.cell_name(cell)}/ndcg@10")
                shade = min(abs(mean) / 0.03, 1.0) * 0.85
                base = (0.11, 0.42, 0.66) if mean > 0 else (0.82, 0.29, 0.36)
                colour = [1 - shade * (1 - c) for c in base]
                axis.add_patch(plt.Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="white"))
                weight = "bold" if low > 0 or high < 0 else "normal"
                tone = "white" if shade > 0.6 else "black"
                axis.text(
                    j + 0.5,
                    i + 0.5,
                    f"{mean:+.3f}".replace("-0.000", "0.000"),
                    ha="center",
                    va="center",
                    weight=weight,
                    color=tone,
                )
        axis.set_xlim(0, 3)
        axis.set_ylim(0, 3)
        axis.set_xticks([0.5, 1.5, 2.5], [str(s) for s in axis_of["sft_steps"]])
        axis.set_yticks([0.5, 1.5, 2.5], [f"{v:.0%}" for v in axis_of["informative"]])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(f"noise {noise:.0%}, sharing {share:.0%}")
    figure.supxlabel("SFT steps before alignment (few = much headroom)", fontsize=9)
    figure.supylabel("informative share of the true negatives", fontsize=9)
    save(figure, folder, "e-map")


def effect_lines(figures: Figures, folder: Path) -> None:
    names = {
        "sft_steps": "SFT steps before",
        "share": "prefix sharing",
        "noise": "pseudo-negatives",
        "informative": "informative neg.",
        "accidental": "accidental clicks",
        "lists": "lists per query",
        "n": "negatives n",
        "beta": "β",
        "steps": "alignment steps",
        "rate": "learning rate ×",
    }
    figure, axes = sheet(2, 5, 4.2, sharey=True)
    for axis, (dial, values) in zip(axes, predictions.LINES.items(), strict=True):
        x = list(range(len(values)))
        for measure, label, colour in (
            ("ndcg@10", "true relevance, nDCG@10", COLOURS[0]),
            ("click.mrr", "next click, MRR", COLOURS[1]),
        ):
            bars(
                axis,
                figures,
                x,
                [f"E/{dial}={v:g}/{measure}" for v in values],
                color=colour,
                label=label,
            )
        axis.axhline(0, color="#999999", lw=0.8)
        axis.set_xticks(x, [f"{v:g}" for v in values], fontsize=8)
        axis.set_title(names[dial], fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.supylabel("RAD-DPO − SFT-continued", fontsize=9)
    save(figure, folder, "e-dials")


def draw(figures: Figures, folder: Path) -> None:
    """All pictures, as ``lab-*.png`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for picture in (squeezing, truncation, readings, rdrw, effect_map, effect_lines):
            picture(figures, folder)
