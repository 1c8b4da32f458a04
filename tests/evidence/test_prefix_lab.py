"""The tabular lab: the facts that must hold exactly, and a page whose numbers are those of the
results file.
"""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def lab():
    """The lab's modules."""
    names = ("figures", "mechanisms", "pictures", "policy", "predictions", "report", "world")
    modules = {name: importlib.import_module(f"experiments.lab.{name}") for name in names}
    return type("Lab", (), modules)


def leaf_by_leaf(lab, table, leaf):
    """Slow twin of ``step_logp``: one SID of one query."""
    k1, k2, k3 = lab.world.LEVELS
    first, second, third = leaf // (k2 * k3), leaf // k3 % k2, leaf % k3
    one = table[:k1].log_softmax(0)[first]
    at = k1 + first * k2
    two = table[at : at + k2].log_softmax(0)[second]
    at = k1 + k1 * k2 + (first * k2 + second) * k3
    return torch.stack([one, two, table[at : at + k3].log_softmax(0)[third]])


def test_the_policy_is_a_distribution_and_agrees_with_its_slow_twin(lab):
    world = lab.world.make_world(lab.world.Dials(), 2)
    logp = lab.policy.leaf_logp(world.base)
    assert torch.allclose(logp.exp().sum(1), torch.ones(len(logp)), atol=1e-5)
    leaves = world.leaves[:, 0]
    steps = lab.policy.step_logp(world.base, leaves)
    assert torch.allclose(steps.sum(-1), logp.gather(1, leaves), atol=1e-5)
    twin = [
        [leaf_by_leaf(lab, world.base[w], int(y)) for y in leaves[w]] for w in range(len(leaves))
    ]
    assert torch.allclose(steps, torch.stack([torch.stack(row) for row in twin]), atol=1e-6)


@pytest.mark.parametrize(
    ("share", "noise", "auc"), [(0.1, 0.0, 0.5), (0.35, 0.25, 0.7), (0.8, 0.5, 0.9)]
)
def test_the_dials_turn_what_they_name(lab, share, noise, auc):
    world = lab.world.make_world(lab.world.Dials(share=share, noise=noise, auc=auc), 200)
    first = world.pool // (lab.world.LEAVES // lab.world.LEVELS[0])
    assert (first[:, 0] == first[:, 1]).float().mean().item() == pytest.approx(share, abs=0.05)
    negative = world.tier == 0
    assert (world.pseudo.sum() / negative.sum()).item() == pytest.approx(noise, abs=0.01)
    if noise:
        pseudo, true = (
            world.cosine[world.pseudo][:3000],
            world.cosine[negative & ~world.pseudo][:3000],
        )
        assert (pseudo[:, None] > true).float().mean().item() == pytest.approx(auc, abs=0.03)
    ordered = world.leaves.sort(-1).values
    assert (ordered.diff(dim=-1) > 0).all(), "a list holds an SID twice"
    assert world.valid.gather(1, world.pool).all()


@pytest.mark.parametrize("dials", [{"share": 0.01}, {"auc": 0.4}])
def test_a_dial_out_of_range_is_refused(lab, dials):
    with pytest.raises(ValueError, match="must be between"):
        lab.world.make_world(lab.world.Dials(**dials), 2)


def test_rdrw_sees_the_similarity_that_the_dial_sets(lab):
    from sidar.align.rdrw import star_similarity

    world = lab.world.make_world(lab.world.Dials(), 2)
    rows = [world.leaves[:, 0], world.tier[:, 0], world.star[:, 0], world.cosine[:, 0]]
    scores = lab.policy.as_scores(lab.policy.step_logp(world.base, rows[0]), *rows)
    assert torch.allclose(
        star_similarity(scores.hidden, scores.star), world.cosine[:, 0], atol=1e-5
    )


def test_coefficients_are_those_of_the_formula(lab):
    figures = lab.figures.Figures()
    lab.mechanisms.coefficients(figures, 4)
    errors = [value for name, value in figures.items() if name.endswith("/error_1e9")]
    assert len(errors) == 4
    assert max(errors) < 1e3  # 1e-6
    assert figures["B/coefficient/equal/tlgd=on/mean"] == pytest.approx(1 / 3)
    # (1/L)(1 − Σ q) is never below 0 at equal lengths; with varied ones a long negative can win
    assert figures["B/coefficient/equal/tlgd=off/negative"] == 0
    assert figures["B/coefficient/varied/tlgd=off/negative"] > 0
    assert figures["B/coefficient/varied/tlgd=on/negative"] == 0


def test_both_readings_are_one_at_a_single_negative(lab):
    world, sft = lab.policy.prepared(lab.world.Dials(n=1), 4)
    ends = [
        lab.policy.train(world, sft, name, rdrw=False, steps=20) for name in lab.mechanisms.FORMS
    ]
    assert torch.allclose(*ends, atol=1e-4)
    world, sft = lab.policy.prepared(lab.world.Dials(n=3), 4)
    ends = [
        lab.policy.train(world, sft, name, rdrw=False, steps=20) for name in lab.mechanisms.FORMS
    ]
    assert not torch.allclose(*ends, atol=1e-2)


def test_dpo_squeezes_the_other_positives_and_raddpo_does_not(lab):
    figures = lab.figures.Figures()
    lab.mechanisms.squeezing(figures, 6)
    assert figures["A/dpo/change/others.hi"] < 0
    assert figures["A/raddpo/change/others.lo"] > 0
    assert figures["A/sft/change/others.lo"] > 0


def test_the_weights_point_the_right_way_and_follow_the_auc(lab):
    figures = lab.figures.Figures()
    for auc in (0.5, 0.7, 1.0):
        lab.predictions.mean_weights(figures, lab.world.Dials(auc=auc), 20)
    gaps = [
        figures[f"D/auc={auc}/weight/true"] - figures[f"D/auc={auc}/weight/pseudo"]
        for auc in ("0.5", "0.7", "1")
    ]
    assert gaps[0] == pytest.approx(0, abs=0.02)
    assert gaps[0] < gaps[1] < gaps[2]
    assert figures["D/auc=1/weight/pseudo"] == pytest.approx(0.5, abs=0.01)


def test_constant_control_is_three_quarters_and_shuffling_keeps_the_values(lab):
    world = lab.world.make_world(lab.world.Dials(), 4)
    cosine, tier = world.cosine[:, 0], world.tier[:, 0]
    g = torch.Generator().manual_seed(0)
    shuffled = lab.policy.seen_by_rdrw(cosine, tier, "shuffled", g)
    assert not torch.equal(shuffled, cosine)
    assert torch.equal(shuffled[tier == 0].sort().values, cosine[tier == 0].sort().values)
    constant = lab.policy.seen_by_rdrw(cosine, tier, "constant", g)
    window = lab.predictions.SimilarityWindow(size=10)
    window.add(constant[tier == 0])
    assert (window.weigh(constant[tier == 0])[0] == 0.75).all()


def test_methods_see_the_same_lists_whatever_draws_they_make_of_their_own(lab):
    """Pairing: with no contrast gradient to differ by, shuffled and plain similarities give the
    same table.
    """
    world, sft = lab.policy.prepared(lab.world.Dials(), 2)
    ends = [
        lab.policy.train(world, sft, "raddpo", steps=5, weights=weights, rdrw_window=10**6)
        for weights in ("similarity", "shuffled")  # fewer than 4096 pairs: still warming up, w = 1
    ]
    assert torch.equal(*ends)


def test_the_experiments_of_noise_and_effect_run_and_agree_where_they_overlap(lab, monkeypatch):
    figures, given = lab.figures.Figures(), lab.predictions
    monkeypatch.setattr(given, "NOISES", (0.0, 0.25))
    monkeypatch.setattr(given, "AUCS", (0.5, 0.7))
    monkeypatch.setattr(
        given,
        "MAP",
        {"share": (0.35,), "noise": (0.25,), "informative": (0.5,), "sft_steps": (40,)},
    )
    lines = {dial: values[:1] for dial, values in given.WORLD_LINES.items()}
    monkeypatch.setattr(given, "WORLD_LINES", lines)
    monkeypatch.setattr(given, "TRAINING_LINES", {"beta": (2.0,), "steps": (5,), "rate": (1.0,)})
    monkeypatch.setattr(given, "LINES", {**lines, **given.TRAINING_LINES})
    given.rdrw_against_noise(figures, 2)
    given.effect_map(figures, 2)
    given.effect_lines(figures, 2)
    chosen = given.best_settings(figures, 2)
    usual = figures["E/standard/ndcg@10"]
    assert usual == pytest.approx(figures["D/noise=0.25/auc=0.7-sft/ndcg@10"], abs=1e-6)
    assert usual == pytest.approx(figures["E/map/mean/noise=0.25/ndcg@10"], abs=1e-6)
    assert figures["E/beta=2/ndcg@10"] == usual
    assert {key for setting in chosen.values() for key in setting} == set(given.LINES)
    assert "E/chosen/best/ndcg@10.lo" in figures


@pytest.mark.parametrize(
    ("y", "level", "expected"), [((0, 1, 2), 0.5, 0.55), ((1, 1, 1), 0, 0.5), ((1, 1, 0), 0, 2)]
)
def test_crossing_reads_the_threshold_off_a_broken_line(lab, y, level, expected):
    assert lab.predictions.crossing((0.5, 0.6, 0.7), y, level) == pytest.approx(expected)


def test_oscillation_ignores_a_trend_and_measures_what_is_left(lab):
    x = torch.arange(100, dtype=torch.float64)
    swing = torch.where(x % 2 == 0, 1.0, -1.0)
    curves = torch.stack([0.3 * x, 0.3 * x + swing], 1)
    assert lab.mechanisms.oscillation(curves).tolist() == pytest.approx([0.0, 1.0], abs=2e-3)


def results(lab):
    kept = json.loads((ROOT / "experiments/results/prefix_lab.json").read_text())
    return lab.figures.Figures(kept["figures"])


def test_every_table_and_picture_is_made_of_the_kept_figures(lab, tmp_path):
    figures = results(lab)
    for build in lab.report.TABLES.values():
        _, header, rows = build(figures)
        assert rows
        assert {len(row) for row in rows} == {len(header)}
    lab.pictures.draw(figures, tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (ROOT / "docs/images").glob("lab-*.png")}


def test_the_pages_numbers_are_those_of_the_results(lab):
    page = (ROOT / "docs/prefix-lab.md").read_text()
    assert lab.report.fill(page, results(lab)) == page
    assert len(lab.report.NUMBER.findall(page)) > 20
    clicks = {
        k: v
        for k, v in results(lab).items()
        if k.startswith("E/map/share") and k.endswith("/click.mrr")
    }
    assert max(clicks, key=clicks.get) in page, "the page names the largest effect on clicks"
    untied = re.sub(
        r"<!-- table.*?<!-- end -->", "", lab.report.NUMBER.sub("", page), flags=re.DOTALL
    )
    assert re.findall(r"[+−]\.\d+", untied) == [], "a signed figure in the prose names no result"
