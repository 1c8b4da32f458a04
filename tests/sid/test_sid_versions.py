"""The diff of two SID tables against planted changes, one of each cause."""

import json

import numpy as np
import pytest
from reference_index import semantic_ids

from sidar.sid.lifecycle.ledger import Ledger
from sidar.sid.lifecycle.versions import CAUSES, Version, compare_versions, lines, open_version
from sidar.sid.published import write_published
from sidar.sid.table import save_sids

SIZES = (8, 8, 8)
BEFORE = {
    "gone": (1, 1, 1),
    "grows": (2, 2),
    "reworded": (3, 3, 3),
    "same": (4, 4, 4),
    "split": (5, 5, 5),
    "strange": (6, 6, 6),
}
AFTER = {
    **BEFORE,
    "grows": (2, 2, 7),
    "reworded": (3, 4, 3),
    "split": (5, 5, 6),
    "strange": (6, 7, 6),
    "young": (1, 1, 1),
}
del AFTER["gone"]


def version(table, label, *, reworded=0, codebooks="k", ledger=True):
    ids = list(table)
    line = None
    if ledger:
        text = np.array([100 + reworded if item == "reworded" else 1 for item in ids], np.uint64)
        n = len(ids)
        cause = np.array(
            ["held" if item == "same" and reworded else "kept" for item in ids], object
        )
        line = Ledger(np.array(ids, object), text, np.zeros(n, np.float32), np.ones(n, bool), cause)
    titles = {item: item.upper() for item in ids}
    return Version(label, ids, semantic_ids(list(table.values()), SIZES), line, codebooks, titles)


def test_every_planted_change_has_its_cause():
    diff = compare_versions(version(BEFORE, "A"), version(AFTER, "B", reworded=1))
    found = {cause: [item for item, *_ in examples] for cause, examples in diff.examples.items()}
    assert found == {
        "new": ["young"],
        "retired": ["gone"],
        "text": ["reworded"],
        "split": ["split"],
        "length": ["grows"],
        "other": ["strange"],
    }
    assert (diff.same, diff.moved, diff.held, diff.codebooks) == (1, 4, 1, "same")
    assert diff.first_level == {"length 2": 1, "level 2": 2, "level 3": 1}
    assert diff.items == (6, 6)
    assert diff.examples["split"] == [("split", "SPLIT", (5, 5, 5), (5, 5, 6))]
    text = "\n".join(lines(diff))
    assert "1 items keep their SID, 4 moved, 1 new, 1 retired" in text
    assert "5-5-5 → 5-5-6  split  SPLIT" in text
    assert "– → 1-1-1  young" in text
    assert json.loads(json.dumps(diff.as_dict()))["causes"] == dict.fromkeys(found, 1)


def test_other_codebooks_move_everything_that_stays():
    diff = compare_versions(version(BEFORE, "A"), version(AFTER, "B", codebooks="other"))
    assert diff.causes == {"new": 1, "retired": 1, "codebooks": 5}
    assert diff.same == 0
    assert diff.first_level["nowhere (equal numbers)"] == 1


def test_without_ledgers_nobody_remembers_why_and_examples_are_limited():
    many = {f"p{i}": (i % 8, 0, 0) for i in range(20)}
    moved = {item: (codes[0], 1, 1) for item, codes in many.items()}
    diff = compare_versions(
        version(many, "A"), version(moved, "B", ledger=False, codebooks=None), examples=2
    )
    assert diff.causes == {"unknown": 20}
    assert (diff.codebooks, diff.held) == ("unknown", None)
    assert len(diff.examples["unknown"]) == 2
    assert not compare_versions(version(many, "A"), version(many, "A")).causes


def test_versions_are_opened_from_files_and_folders(tmp_path):
    sids = semantic_ids(list(BEFORE.values()), SIZES)
    write_published(tmp_path / "ids.json", list(BEFORE), sids)
    (tmp_path / "run" / "sid").mkdir(parents=True)
    save_sids(tmp_path / "run" / "sid" / "sids.parquet", list(BEFORE), sids)
    versions = [
        open_version(tmp_path / each)
        for each in ("ids.json", "run", "run/sid", "run/sid/sids.parquet")
    ]
    for other in versions[1:]:
        diff = compare_versions(other, versions[1])
        assert (diff.same, diff.moved, diff.codebooks) == (6, 0, "unknown")
    assert "codebooks unknown (7/7/7 → 8/8/8)" in "\n".join(
        lines(compare_versions(versions[0], versions[1]))
    )
    with pytest.raises(ValueError, match="is no version of an SID table"):
        open_version(tmp_path)
    assert set(CAUSES) >= {"new", "retired"}
