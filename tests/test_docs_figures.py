"""The figures that the docs quote are those of the kept results: each table is made again from the
JSON.
"""

import importlib
import json
from pathlib import Path

import pytest

from experiments.raddpo.report import read_kept
from experiments.raddpo.report.contrast import difference, per_query
from experiments.raddpo.report.families import family
from experiments.raddpo.report.show import signed

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
SPEEDS = ROOT / "benchmarks" / "results"
TIMED = ("demo", "geometry")


def results(name):
    """A results file; skips where it is still being measured."""
    path = SPEEDS / f"{name}.json" if name in TIMED else RESULTS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path.relative_to(ROOT)} does not exist yet: the measurement has not ended")
    return json.loads(path.read_text())


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.fixture
def benchmark(monkeypatch):
    """``benchmark(name)``: the script as a module, without what it sets for a
    process of its own.
    """
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("common", "experiments.common"):
        monkeypatch.setattr(importlib.import_module(name), "single_thread", lambda: None)
    return importlib.import_module


def test_the_page_of_the_bake_off(benchmark, tmp_path):
    benchmark("experiments.tokenizers.bakeoff").write_docs(results("bakeoff"), tmp_path)
    assert page("bakeoff.md") == (tmp_path / "bakeoff.md").read_text(encoding="utf-8")
    drawn = {path.name: path.read_text() for path in (tmp_path / "images").iterdir()}
    assert {
        path.name: path.read_text() for path in (ROOT / "docs/images").glob("bakeoff-*.svg")
    } == drawn


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("start.grown", "grown.md"),
        ("retrieval.sci", "methods/sci.md"),
        ("answer.answer", "answer.md"),
        ("answer.shares", "answer.md"),
        ("online", "ab.md"),
    ],
)
def test_tables_between_marks(benchmark, name, where):
    kept, made = results(name.split(".")[-1]), benchmark(f"experiments.{name}")
    table = made.page_table(kept["figures"] if name == "retrieval.sci" else kept)
    assert made.MARKS[0] + table + made.MARKS[1] in page(where)


def test_the_page_of_a_shop_without_a_log(benchmark):
    made, text = benchmark("experiments.no_log"), page("no-log.md")
    assert made.YAML[0] + made.page_yaml() + made.YAML[1] in text
    kept = results("chorus")
    assert made.MARKS[0] + made.page_table(kept) + made.MARKS[1] in text
    assert made.TIMES[0] + made.page_times(kept) + made.TIMES[1] in text
    for figure in made.quoted(kept):
        assert figure in " ".join(text.split()), figure


def share(value, digits=3):
    return f"{value:.{digits}f}".removeprefix("0")


def test_tables_of_adaptive_lengths():
    figures, text = results("adaptive_ids")["figures"], page("methods/sarq.md")
    names = {
        "fixed": "fixed, three codes",
        "e1": "E1",
        "e2": "E2",
        "e3": "**E3**",
        "e3 kappa=2": "E3, κ = 2",
    }
    for key, name in (names | {"shuffled": "E3's lengths shuffled"}).items():
        of = {k.removeprefix(f"simulated/sarq/{key}/"): v for k, v in figures.items()}
        lengths = " / ".join(f"{of[f'{who}/length']:.2f}" for who in ("head", "tail", "cold"))
        shared = [
            f"{share(of[f'{who}/collide'])} ({of[f'{who}/bucket']:.1f})"
            for who in ("head", "tail", "cold")
        ]
        cells = [name, lengths, *shared, f"{of['sids']:,.0f}", f"{of['traffic_length']:.2f}"]
        assert f"| {' | '.join(cells)} |" in text
    for sizes, about in (("512/256/128", " (automatic)"), ("128/64/32", "")):
        for key, name in {
            "fixed": "fixed",
            "e2": "E2",
            "e3": "**E3**",
            "shuffled": "shuffled",
        }.items():
            of = {k.removeprefix(f"sample/sarq {sizes}/{key}/"): v for k, v in figures.items()}
            shared = [share(of[f"{who}/collide"]) for who in ("head", "torso", "tail", "cold")]
            cells = [f"{sizes}{about}", name, *shared, f"{of['traffic_length']:.2f}"]
            assert f"| {' | '.join(cells)} |" in text


def test_tables_of_frozen_codebooks():
    figures, text = results("adaptive_ids")["figures"], page("methods/acrq.md")
    for key, name in (("acrq default", "ACRQ"), ("joint rqvae", "RQ-VAE on all items")):
        measures = ("head/purity", "tail/purity", "cold/purity", "tail/error", "cold/error")
        cells = [share(figures[f"simulated/acrq sellers/{key}/{measure}"]) for measure in measures]
        assert f"| {name} | {' | '.join(cells)} |" in text


def test_table_of_cq_sid():
    figures, text = results("sid_quality")["figures"], page("methods/cqsid.md").replace("**", "")
    names = {
        "random": "random",
        "rqkmeans": "RQ-KMeans",
        "rqkmeans +category": "RQ-KMeans, category first",
    }
    names |= {"rqvae": "RQ-VAE (β = .25)", "cqsid": "CQ-SID", "cqsid -category": "CQ-SID −category"}
    for key, name in (
        names | {"cqsid -QI": "CQ-SID −QI", "cqsid -category -QI": "neither"}
    ).items():
        of = {k.removeprefix(f"{key}: "): v for k, v in figures.items() if k.startswith(f"{key}: ")}
        pairs = [
            f"{share(of[f'{who} 1'], 2)} / {share(of[f'{who} 2'], 2)}"
            for who in ("clicked", "grounded")
        ]
        found = " · ".join(
            share(of[f"R@100 {each}"]) for each in ("judged_test", "grounded_test", "day8-clicks")
        )
        used = [
            f"{of['SIDs']:,.0f}",
            f"{of['collide']:.0%}".replace("%", " %"),
            f"{of['codes 1']:.0f}",
        ]
        cells = [name, *used, f"{of['purity']:.2f}".removeprefix("0"), *pairs, found]
        assert f"| {' | '.join(cells)} |" in text


def test_what_the_geometry_costs(benchmark):
    assert benchmark("geometry").page_table(results("geometry")["figures"]) in page("grown.md")


# ---------------------------------------------------------------------- sentences

MRR, NDCG = "click.sid.mrr", "click.item.ndcg@10"
TRUE_SID, TRUE_ITEM = "utility.sid.ndcg@10", "utility.item.ndcg@10"
CONTROL = "sft-continued"
SAME_RATE = (CONTROL, "lists=7680,lr_new=3e-05")
LONG_FAST = "lists=7680,lr_new=9e-05"
BED = "bed=shipped"
SHIPPED = ("raddpo", f"{BED},beta=0.5,lists=7680,window=4096")
#: Page, sentence with places for figures, and the differences that stand there: (a, variant), (b,
#: variant), measure.
EVIDENCE = [
    (
        "findings.md",
        "RAD-DPO − SFT-continued at RAD-DPO's rate is {} of SID MRR and {} of item nDCG@10",
        [(("raddpo", ""), (CONTROL, "lr_new=3e-05"), m) for m in (MRR, NDCG)],
    ),
    (
        "findings.md",
        "true utility {} of item nDCG@10 (−.0003 … +.0029)",
        [(("raddpo", ""), (CONTROL, "lr_new=3e-05"), TRUE_ITEM)],
    ),
    ("findings.md", "DPO is ahead of it ({} for RAD-DPO", [(("raddpo", ""), ("dpo+sft", ""), MRR)]),
    ("findings.md", "SimPO at item level ({})", [(("raddpo", ""), ("simpo+sft", ""), NDCG)]),
    (
        "findings.md",
        "when no negative is relevant (SID {}, item {})",
        [
            (("raddpo", f"data=clean,{LONG_FAST}"), (CONTROL, LONG_FAST), m)
            for m in (TRUE_SID, TRUE_ITEM)
        ],
    ),
    (
        "findings.md",
        "when half are (SID {}; item {} cannot be told)",
        [
            (("raddpo", f"noise=0.5,{LONG_FAST}"), (CONTROL, LONG_FAST), m)
            for m in (TRUE_SID, TRUE_ITEM)
        ],
    ),
    (
        "findings.md",
        "is better than on 1,920 (SID MRR {}, item nDCG@10 {}, true utility {} / {}, all seeds",
        [(("raddpo", "lists=7680"), ("raddpo", ""), m) for m in (MRR, NDCG, TRUE_SID, TRUE_ITEM)],
    ),
    (
        "findings.md",
        "it then beats SFT-continued on true utility (SID {}, item {}, all seeds)",
        [(("raddpo", "lists=7680"), SAME_RATE, m) for m in (TRUE_SID, TRUE_ITEM)],
    ),
    (
        "findings.md",
        "(SID MRR {} before, {} then; item nDCG@10 {} before, {} then)",
        [
            (("raddpo", variant), control, m)
            for m in (MRR, NDCG)
            for variant, control in (("", (CONTROL, "lr_new=3e-05")), ("lists=7680", SAME_RATE))
        ],
    ),
    (
        "findings.md",
        "same length and rate on clicks (SID MRR {})",
        [(("raddpo", LONG_FAST), (CONTROL, LONG_FAST), MRR)],
    ),
    (
        "findings.md",
        "longer and faster, gains {} / {} on true utility (SID / item)",
        [((CONTROL, LONG_FAST), ("sft", ""), m) for m in (TRUE_SID, TRUE_ITEM)],
    ),
    (
        "findings.md",
        "β = .5 is {} of SID MRR and {} of item nDCG@10 on next-day clicks, β = 1 {} and {}, β = 5 "
        "{} (all after Holm), and one negative instead of three {} and {}",
        [
            (("raddpo", variant), ("raddpo", ""), m)
            for variant in ("beta=0.5", "beta=1.0", "beta=5.0", "n=1")
            for m in (MRR, NDCG)
            if (variant, m) != ("beta=5.0", NDCG)
        ],
    ),
    (
        "findings.md",
        "told on clicks (SID MRR {}, −.0036 … +.0051)",
        [(("raddpo", "beta=0.5"), (CONTROL, ""), MRR)],
    ),
    (
        "findings.md",
        (
            "RDRW over no weights is {} of SID nDCG on the truth and weights from the truth {} "
            "(three seeds, after Holm)"
        ),
        [
            ((a, LONG_FAST), ("raddpo-no-rdrw", LONG_FAST), TRUE_SID)
            for a in ("raddpo", "raddpo-truth")
        ],
    ),
    (
        "findings.md",
        "gain about alike on clicks ({}, {} of SID MRR)",
        [(("raddpo", variant), ("raddpo", ""), MRR) for variant in ("n=1", "beta=0.5")],
    ),
    (
        "findings.md",
        "against SFT {} item nDCG@10 on clicks (+.0014 … +.0117) and {} on true utility",
        [(SHIPPED, ("sft", BED), m) for m in (NDCG, TRUE_ITEM)],
    ),
    (
        "findings.md",
        (
            "against SFT continued {} SID MRR on clicks (−.0025 … +.0016) and {} item nDCG@10 on "
            "true utility"
        ),
        [(SHIPPED, (CONTROL, f"{BED},lists=7680,lr_new=3e-05"), m) for m in (MRR, TRUE_ITEM)],
    ),
]


@pytest.fixture(scope="module")
def evidence():
    return read_kept(RESULTS / "raddpo")


def prose(name):
    """A page with one space between words, so that a line's end does not matter."""
    path = ROOT / name if name == "README.md" else ROOT / "docs" / name
    return " ".join(path.read_text(encoding="utf-8").split())


def test_sentences_on_the_evidence(evidence):
    for name, sentence, asked in EVIDENCE:
        shown = []
        for (a, variant), (b, other), metric in asked:
            contrast = difference(a, b, metric, variant=variant, b_variant=other, across=True)
            differences, _, _, seeds = per_query(evidence, contrast)
            assert len(seeds) >= 3
            shown.append(signed(float(differences.mean())))
        assert sentence.format(*shown) in prose(name), sentence.format(*shown)


def test_what_grows_with_the_rows(evidence):
    """The one verdict of the evidence page on each measure, in the words of the findings."""
    text = prose("findings.md")
    rows = {
        m: family(evidence, "lists", m)["RAD-DPO (softmax): 7680 − 960"]
        for m in (MRR, NDCG, TRUE_SID, TRUE_ITEM)
    }
    rates = {m: family(evidence, "rows at equal rates", m)["the change"] for m in rows}
    assert [r.word for r in rows.values()] == [
        "cannot tell here",
        "cannot tell here",
        "holds",
        "holds",
    ]
    assert [r.word for r in rates.values()] == [
        "cannot tell here",
        "holds",
        "holds",
        "cannot tell here",
    ]
    grown, equal = ([signed(r.test.effect) for r in each.values()] for each in (rows, rates))
    told = (
        "On true utility yes (SID {2}, item {3}); on clicks it cannot be told (SID MRR {0}, "
        "item nDCG@10 {1}, p .08"
    )
    assert told.format(*grown) in text
    told = (
        "grows in item nDCG@10 on clicks ({1}) and in SID nDCG@10 on true utility ({2}); SID "
        "MRR on clicks ({0}) and "
    )
    assert told.format(*equal) + f"item nDCG@10 on true utility ({equal[3]}) cannot be told" in text
    most = family(evidence, "rows at equal rates", MRR)["7680 rows"]
    assert most.word == "cannot tell here"
    assert (
        f"({signed(most.test.effect)}, {signed(most.test.low)} to {signed(most.test.high)})"
        in prose("README.md")
    )


def test_sentences_on_the_answer():
    figures = results("answer")["figures"]

    def of(name, digits=3):
        return [signed(figures[f"{name}{end}"], digits) for end in ("", "_low", "_high")]

    readme, findings, answer = prose("README.md"), prose("findings.md"), prose("answer.md")
    effect, low, high = of("answer_minus_memory_clicks_all")
    assert f"next-day clicks {effect} nDCG@10, {low} to {high};" in readme
    assert figures["answer_minus_memory_clicks_all_p_holm"] < 0.05
    for target in ("random", "utility"):  # "no difference can be told"
        assert figures[f"answer_minus_memory_{target}_all_p_holm"] > 0.05
    loss = [
        signed(-figures[f"memory_minus_raddpo_clicks_all{end}"], 3) for end in ("", "_high", "_low")
    ]
    assert f"loses to that table ({loss[0]}, {loss[1]} to {loss[2]})" in readme
    for target in ("clicks", "orders", "random", "utility"):
        assert figures[f"answer_minus_without_lm_{target}_all_p_holm"] > 0.05
    grounded = share(figures["answer_minus_without_lm_grounded_test_all"])
    assert f"on held-out grounded queries it loses {grounded}." in answer
    clicks, utility = (
        of(f"answer_minus_without_lm_{target}_all") for target in ("clicks", "utility")
    )
    told = "the answer with it is {} on clicks ({} … {}) and {} on utility ({} … {})"
    assert told.format(*clicks, *utility) in findings
    uniform = of("share_minus_uniform_raddpo_clicks_all")
    assert "next-day clicks {}, {} … {}, p .27 after Holm".format(*uniform) in findings
    clicks, utility = (
        of("share_minus_listed_sft_clicks_all"),
        of("share_minus_listed_sft_utility_all"),
    )
    told = "it is {} ({} … {}, cannot be told) on next-day clicks and {} (holds) on true utility"
    assert told.format(*clicks, utility[0]) in findings


def test_sentences_on_the_demo():
    kept = results("demo")
    table = {name: each["systems"] for name, each in kept["table"].items()}
    text = prose("findings.md")

    def of(name, system, measure="ndcg@10"):
        return share(table[name][system][f"item/{measure}"]["mean"])

    both = [
        [of(name, system) for system in ("sft", "sft+rerank", "dense")]
        for name in ("judged_test", "day8-clicks")
    ]
    recall = [of("judged_test", system, "recall@100") for system in ("sft", "sft+rerank", "dense")]
    assert "from {} to {} on judged queries (dense {})".format(*both[0]) in text
    assert "R@100 from {} to {} (dense {})".format(*recall) in text
    memory = of("day8-clicks", "memory")
    assert "day-8 clicks from {} to {} (dense {}, `memory` {})".format(*both[1], memory) in text
    alone = [t for t in kept["tests"] if (t["a"], t["b"]) == ("raddpo", "sft")]
    assert {t["verdict"] for t in alone} == {"cannot tell here"}


def test_the_cost_of_a_report():
    figures = json.loads((SPEEDS / "report_cost.json").read_text())["figures"]
    sentence = (
        f"Scoring {figures['queries']:,} queries over the {figures['items']:,} products with three "
        "models, BM25, dense, popularity, `memory` and the answer takes "
        f"{figures['evaluate_minutes']:.1f} minutes"
    )
    assert figures["models"] == 3
    assert sentence in prose("grown.md")
