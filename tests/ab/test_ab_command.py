"""`sidar ab` as a user calls it: options, the table at 80 columns, ab.json, the page, errors."""

import json
import re
import sys

import pytest
from ab_logs import event, shop_log, write_log

from sidar.cli import main


@pytest.fixture
def sidar(monkeypatch, capsys, tmp_path):
    """``sidar(*arguments)``: (exit code, output, error) in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sidar", "ab", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        text, error = capsys.readouterr()
        return left.value.code, text, error

    return call


LONG = {"a": "control of the autumn ranking", "b": "raddpo with shares of items and memory"}


def test_tables_json_and_page(sidar, tmp_path):
    shop_log(tmp_path / "log.parquet", users=300, lift=0.4, before=2, **LONG)
    code, text, error = sidar(
        "--events", "log.parquet", "--from", "2026-11-02", "--lift", "0.34%", "threads=1"
    )
    assert (code, error) == (0, "")
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    squeezed = " ".join(text.split())
    assert f"{LONG['b']} against {LONG['a']} (control)" in squeezed
    for metric in ("UCVR", "UCTCVR", "CTR", "GMV", "dwell"):
        assert re.search(rf"^{metric} .*relative +[+-]", text, re.MULTILINE), metric
    assert "users for +0.34 %" in text
    assert "no sample-ratio mismatch" in squeezed
    assert "wrote ab/ab.json" in text
    kept = json.loads((tmp_path / "ab" / "ab.json").read_text())
    assert [row["metric"] for row in kept["rows"]] == ["UCVR", "UCTCVR", "CTR", "GMV", "dwell"]
    assert kept["pre_period"] is True
    assert kept["rows"][2]["verdict"] == "higher"
    assert kept["definitions"]["CTR"].startswith("click-through rate")
    assert "user_id" not in json.dumps(kept)
    page = (tmp_path / "ab" / "ab.html").read_text()
    assert page.count("<svg ") >= 5
    assert f"Relative lift of {LONG['b']}" in page
    assert "http" not in page


def test_a_config_names_log_columns_and_folder(sidar, tmp_path):
    shop_log(tmp_path / "log.parquet", users=60)
    (tmp_path / "sidar.yaml").write_text("name: shop\nevents: {path: log.parquet}\nthreads: 1\n")
    code, text, _ = sidar("--shares", "a=50,b=50", "--buckets", "b,a")
    assert code == 0
    assert "a against b (control)" in text
    assert (tmp_path / "runs" / "shop" / "ab" / "ab.html").is_file()
    code, _, _ = sidar("-c", "sidar.yaml", "--out", "elsewhere", "--control", "b")
    assert code == 0
    assert json.loads((tmp_path / "elsewhere" / "ab.json").read_text())["names"] == ["b", "a"]


def test_channels_and_interleaving_are_printed_and_written(sidar, tmp_path):
    names = ["a channel with a rather long name for a table", "dense"]
    events = []
    for i in range(40):
        for place, team in enumerate("ab"):
            about = {"request": f"r{i}", "second": place}
            channels = [names[place], f"team:{team}"]
            events.append(event(f"u{i}", "impression", f"i{place}", channels=channels, **about))
        events.append(event(f"u{i}", "click", f"i{i % 4 == 0:d}", request=f"r{i}", second=9))
    write_log(tmp_path / "log.parquet", events)
    code, text, _ = sidar("--events", "log.parquet")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for word in names[0].split():
        assert word in text
    assert "a is preferred" in " ".join(text.split())
    page = (tmp_path / "ab" / "ab.html").read_text()
    assert names[0] in page
    assert "<h2>Interleaving</h2>" in page
    kept = json.loads((tmp_path / "ab" / "ab.json").read_text())
    assert kept["preferences"][0]["wins"] == [30, 10]
    assert kept["channels"][0]["known"]["exposures"] == 80


def test_a_plan(sidar, tmp_path):
    shop_log(tmp_path / "log.parquet", users=80, a="", b="")
    code, text, _ = sidar("--events", "log.parquet", "--plan", "--lift", "0.05")
    assert code == 0
    assert "users for +5.00 %" in text
    page = (tmp_path / "ab" / "ab.html").read_text()
    assert "<h2>Users needed</h2>" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name the log with --events PATH, or a config that names it with -c"),
        (["--events", "none.parquet"], "events.path: none.parquet names no events file"),
        (["--events", "x", "--lift", "much"], "--lift 'much' is no share such as 0.34%"),
        (["--events", "x", "--from", "monday"], "--from 'monday' is neither a date"),
        (["--events", "x", "--shares", "a"], "'a' is not bucket=share"),
        (["--events", "x", "--shares", "a=1"], "shares name 1 bucket"),
        (["--events", "x", "--experiment", "e"], "--experiment needs the sizes"),
        (["--events", "x", "--crossing", "maybe"], "want drop, first or error"),
        (["--events", "x", "--buckets", "a,a"], "names a bucket twice"),
        (["--events", "x", "--buckets", "a,b", "--control", "c"], "--control c is none of"),
    ],
)
def test_errors_are_one_line(sidar, arguments, message):
    code, _, error = sidar(*arguments)
    assert code == 2
    assert error.startswith("sidar: ")
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_times_and_the_last_day(sidar, tmp_path):
    shop_log(tmp_path / "log.parquet", users=60, days=4)
    code, text, _ = sidar("--events", "log.parquet", "--to", "2026-11-03")
    assert code == 0
    assert text.startswith("2 day(s)")
    code, text, _ = sidar("--events", "log.parquet", "--from", "2026-11-03T00:00:00+00:00")
    assert code == 0
    assert text.startswith("3 day(s)")
