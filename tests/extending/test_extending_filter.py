"""A filter condition of one's own: found by path and by entry point, joined with built-in ones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sidar.data import toy
from sidar.extensions import FILTERS, load_plugins
from sidar.filters import FilterError, Masks, read_filter, to_text

FILE = Path(__file__).parent / "near_filter.py"
PRICES = np.array([np.nan if p is None else p for p in toy.catalogue().column("price")])


@pytest.fixture(autouse=True)
def forget_plugins(monkeypatch):
    """What one test registers is not there in the next, nor in other test files."""
    before = set(sys.modules)
    monkeypatch.setattr(FILTERS, "_parts", dict(FILTERS._parts))
    yield
    for name in set(sys.modules) - before:
        if name.startswith("sidar_plugin_"):
            del sys.modules[name]


def test_a_condition_joins_with_others_as_json_and_in_a_line():
    near = {"near_price": {"price": 30, "percent": 10}}
    with pytest.raises(FilterError, match=r"condition 'near_price' is not one of .*`plugins:`"):
        read_filter({"must": [near]})
    load_plugins([str(FILE)])
    tree = {"must": [near], "must_not": [{"key": "in_stock", "match": {"value": False}}]}
    wanted = read_filter(tree)
    allowed = Masks(toy.catalogue()).rows(wanted)
    in_stock = np.array(toy.catalogue().column("in_stock"))
    assert allowed.tolist() == ((PRICES >= 27) & (PRICES <= 33) & in_stock).tolist()
    assert 0 < allowed.sum() < 64
    assert wanted.to_json() == {
        "must": [{"near_price": {"price": 30.0, "percent": 10.0}}],
        "must_not": tree["must_not"],
    }
    assert read_filter(to_text(wanted)) == wanted
    line = '{"near_price": {"price": 30, "percent": 10}} AND NOT in_stock = false'
    assert read_filter(line) == wanted
    with pytest.raises(FilterError, match=r"must\[0\].*price: Input should be greater than 0"):
        read_filter({"must": [{"near_price": {"price": 0}}]})


def test_an_installed_package_brings_conditions(tmp_path):
    shutil.copy(FILE, tmp_path)
    about = tmp_path / "shop_parts-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-parts\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sidar.filters]\nnear_price = near_filter:Near\n")
    code = (
        "from sidar.filters import read_filter; "
        "print(type(read_filter({'must': [{'near_price': {'price': 3}}]}).must[0]).__name__)"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout) == (0, "Near\n"), done.stderr


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("(Condition):", "(BaseModel):", "wants a class made of sidar's Condition"),
        ("def mask(", "def masks(", "Near lacks mask"),
        ("near_price: NearPrice", "near: NearPrice", "Near must declare the field 'near_price'"),
        ('("near_price")', "", "wants the name of the part"),
        ('"near_price"', '"range"', r"must declare the field 'range'"),
    ],
)
def test_a_faulty_condition_is_refused_where_it_is_registered(tmp_path, old, new, says):
    (tmp_path / "mine.py").write_text(FILE.read_text().replace(old, new))
    with pytest.raises(ValueError, match=r"mine\.py' cannot be imported.*" + says):
        load_plugins(["mine.py"], tmp_path)


def test_a_condition_cannot_take_the_name_of_a_built_in_one(tmp_path):
    text = FILE.read_text().replace('"near_price"', '"range"').replace("near_price:", "range:")
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=r"'range' .* name of a part of sidar\.filters\.cond"):
        load_plugins(["mine.py"], tmp_path)


@pytest.mark.parametrize("wrong", ["[1, 2]", "np.zeros(3, bool)", "np.ones(64)"])
def test_what_a_condition_returns_is_checked(tmp_path, wrong):
    text = FILE.read_text()
    body = text[text.index("return np.abs") :]
    (tmp_path / "mine.py").write_text(text.replace(body, f"return {wrong}\n"))
    load_plugins(["mine.py"], tmp_path)
    with pytest.raises(FilterError, match=r"must\[0\]: near_price \(.*mine\.py\): mask must ret"):
        Masks(toy.catalogue()).rows(read_filter({"must": [{"near_price": {"price": 3}}]}))


def test_the_page_shows_the_tested_file():
    page = (FILE.parents[2] / "docs" / "extending.md").read_text()
    assert f"```python\n{FILE.read_text()}```" in page
