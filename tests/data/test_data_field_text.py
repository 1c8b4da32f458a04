"""One folding of text for log, catalogue and search; HTML entities of products."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_data_field_categories import read
from test_data_field_types import events

from sidar.baselines.text import words
from sidar.config import Config
from sidar.data.cleaning import clean
from sidar.data.cleaning.normalise import fold_text, normalise_query
from sidar.data.duck import Duck
from sidar.data.log import validate_log
from sidar.data.products import load_catalogue
from sidar.serve.request import readable

INVISIBLE = {
    "Wasser\u00adflasche  Edelstahl": "Wasserflasche Edelstahl",
    "می\u200cخواهم کتاب": "میخواهم کتاب",
    "zero\u200bwidth\ufeff rug": "zerowidth rug",
    "\u202bעברית\u202c lamp": "עברית lamp",
    "no\u00a0break\u3000and\u2028line\tend\u0085s": "no break and line end s",
    "icon\ue000here": "icon here",
    "ක්\u200dෂ chair": "ක්ෂ chair",
    "\u2060joined\u2060": "joined",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 mug": (
        "family \U0001f468\U0001f469\U0001f467 mug"
    ),
}


@pytest.mark.parametrize("text", INVISIBLE)
def test_catalogue_log_and_search_fold_alike(tmp_path: Path, text: str) -> None:
    want = INVISIBLE[text]
    (tmp_path / "c.csv").write_text(
        f'item_id,title,brand,category\nP1,"{text}","{text}","{text} > x"\n', newline=""
    )
    (tmp_path / "e.csv").write_text(
        f'ts,item_id,query,action\n1700000000,P1,"{text}",click\n', newline=""
    )
    cfg = Config.model_validate(
        {
            "catalogue": {"path": str(tmp_path / "c.csv")},
            "events": {"path": str(tmp_path / "e.csv")},
            "threads": 1,
        }
    )
    with Duck(tmp_path / "work", "256MB", 1) as duck:
        catalogue, _ = load_catalogue(duck, cfg)
        validate_log(duck, cfg, catalogue, tmp_path / "log.parquet")
        query = duck.row(f"SELECT query FROM read_parquet('{tmp_path / 'log.parquet'}')")[0]
    item = catalogue.item(0)
    assert (item["title"], item["brand"], query, readable(text), fold_text(text)) == (want,) * 5
    assert normalise_query(text) == normalise_query(want)
    assert words(text) == words(want)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\0"), max_size=20)
)
def test_the_sql_and_the_python_fold_are_one(text: str) -> None:
    row = duckdb.execute(f"SELECT {clean.folded('t')} FROM (SELECT $1 AS t)", [text]).fetchone()
    assert row == (fold_text(text),)


@pytest.mark.parametrize(
    "pasted", ["P1\u200b", "\ufeffP1", "P1\u00a0", "\tP1 ", "P\u00ad1", "\u2003P1"]
)
def test_ids_match_whatever_was_pasted_beside_them(tmp_path: Path, pasted: str) -> None:
    (tmp_path / "c.csv").write_text(f'item_id,title\n"{pasted}",lamp\n')
    assert read(tmp_path / "c.csv")[0][0]["item_id"] == "P1"
    (tmp_path / "e.csv").write_text(f'ts,item_id\n1,"{pasted}"\n')
    assert len(events(tmp_path / "e.csv")) == 1


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Tom &amp; Jerry &#8211; 12&quot;", 'Tom & Jerry – 12"'),
        ("Caf&eacute;&nbsp;&amp;&nbsp;Bar", "Café & Bar"),
        ("R&amp;amp;B", "R&B"),
        ("soft&shy;ly &#x27;s", "softly 's"),
    ],
)
def test_html_entities_are_decoded_and_said_once(tmp_path: Path, text: str, want: str) -> None:
    (tmp_path / "c.csv").write_text(
        f'item_id,title,text,brand,category\nP1,"{text}","{text}","{text}","{text} > x"\nP2,a,,,\n'
    )
    items, (said,) = read(tmp_path / "c.csv")
    assert (items[0]["title"], items[0]["text"], items[0]["brand"], items[0]["category"]) == (
        want,
        want,
        want,
        [want, "x"],
    )
    assert said.startswith("HTML entities are decoded in 1 values of 'title'")
    assert items[1]["title"] == "a"


@pytest.mark.parametrize("text", ["AT&T; phone", "a & b; c", "&copy 2020", "x &nothing; y", "Q&A"])
def test_texts_with_ampersands_stay(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.csv").write_text(f'item_id,title\nP1,"{text}"\n')
    items, unread = read(tmp_path / "c.csv")
    assert (items[0]["title"], unread) == (text, [])
