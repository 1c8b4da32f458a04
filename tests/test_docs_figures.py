"""The figures that the docs quote are those of the kept results: each table is made again from the JSON."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def results(name):
    """A results file; skips where it is still being measured."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path.relative_to(ROOT)} does not exist yet: the measurement has not ended")
    return json.loads(path.read_text())


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.fixture
def benchmark(monkeypatch):
    """``benchmark(name)``: the script as a module, without what it sets for a process of its own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(importlib.import_module("common"), "single_thread", lambda: None)
    return importlib.import_module


def test_the_page_of_the_bake_off(benchmark, tmp_path):
    benchmark("bakeoff").write_docs(results("bakeoff"), tmp_path)
    assert page("bakeoff.md") == (tmp_path / "bakeoff.md").read_text(encoding="utf-8")
    drawn = {path.name: path.read_text() for path in (tmp_path / "images").iterdir()}
    assert {path.name: path.read_text() for path in (ROOT / "docs/images").glob("bakeoff-*.svg")} == drawn


@pytest.mark.parametrize(("name", "where"), [("grown", "grown.md"), ("sci", "methods/sci.md"), ("answer", "answer.md")])
def test_tables_between_marks(benchmark, name, where):
    kept, made = results(name), benchmark(name)
    table = made.page_table(kept["figures"] if name == "sci" else kept)
    assert made.MARKS[0] + table + made.MARKS[1] in page(where)


def share(value, digits=3):
    return f"{value:.{digits}f}".removeprefix("0")


def test_tables_of_adaptive_lengths():
    figures, text = results("adaptive_ids")["figures"], page("methods/sarq.md")
    names = {"fixed": "fixed, three codes", "e1": "E1", "e2": "E2", "e3": "**E3**", "e3 kappa=2": "E3, κ = 2"}
    for key, name in (names | {"shuffled": "E3's lengths shuffled"}).items():
        of = {k.removeprefix(f"simulated/sarq/{key}/"): v for k, v in figures.items()}
        lengths = " / ".join(f"{of[f'{who}/length']:.2f}" for who in ("head", "tail", "cold"))
        shared = [f"{share(of[f'{who}/collide'])} ({of[f'{who}/bucket']:.1f})" for who in ("head", "tail", "cold")]
        cells = [name, lengths, *shared, f"{of['sids']:,.0f}", f"{of['traffic_length']:.2f}"]
        assert f"| {' | '.join(cells)} |" in text
    for sizes, about in (("512/256/128", " (automatic)"), ("128/64/32", "")):
        for key, name in {"fixed": "fixed", "e2": "E2", "e3": "**E3**", "shuffled": "shuffled"}.items():
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
    names = {"random": "random", "rqkmeans": "RQ-KMeans", "rqkmeans +category": "RQ-KMeans, category first"}
    names |= {"rqvae": "RQ-VAE (β = .25)", "cqsid": "CQ-SID", "cqsid -category": "CQ-SID −category"}
    for key, name in (names | {"cqsid -QI": "CQ-SID −QI", "cqsid -category -QI": "neither"}).items():
        of = {k.removeprefix(f"{key}: "): v for k, v in figures.items() if k.startswith(f"{key}: ")}
        pairs = [f"{share(of[f'{who} 1'], 2)} / {share(of[f'{who} 2'], 2)}" for who in ("clicked", "grounded")]
        found = " · ".join(share(of[f"R@100 {each}"]) for each in ("judged_test", "grounded_test", "day8-clicks"))
        used = [f"{of['SIDs']:,.0f}", f"{of['collide']:.0%}".replace("%", " %"), f"{of['codes 1']:.0f}"]
        cells = [name, *used, f"{of['purity']:.2f}".removeprefix("0"), *pairs, found]
        assert f"| {' | '.join(cells)} |" in text


def test_what_the_geometry_costs(benchmark):
    assert benchmark("geometry").page_table(results("geometry")["figures"]) in page("grown.md")
