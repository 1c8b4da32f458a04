"""``sid.method: table``: IDs of others keep their codes, get stand-in codebooks, and take new items
in.
"""

import json

import numpy as np
import pytest

from sidar.config import SidConfig, TableConfig, load_config
from sidar.sid import RqKmeans, TableTokenizer, load_tokenizer
from sidar.sid.codebooks.standin import standin_codebooks
from sidar.sid.published import write_published
from sidar.sid.stage import fit_catalogue
from sidar.types import SemanticIds, SidInputs

IDS = [f"p{i}" for i in range(60)]


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(12, 8))[rng.integers(12, size=60)] + 0.2 * rng.normal(size=(60, 8))
    ).astype(np.float32)


@pytest.fixture(scope="module")
def theirs(vectors):
    return RqKmeans((6, 4), seed=3).fit(SidInputs(vectors))


def publish(path, sids, ids=IDS):
    write_published(path, ids, sids)
    return SidConfig(method="table", table=TableConfig(path=str(path)))


def test_codes_are_theirs_and_the_means_are_those_of_a_slow_loop(tmp_path, vectors, theirs):
    sids = theirs.encode(SidInputs(vectors))
    config = publish(tmp_path / "ids.json", sids)
    order = np.random.default_rng(1).permutation(60)
    inputs = SidInputs(vectors[order], item_ids=[IDS[i] for i in order])
    tokenizer, found, tried = fit_catalogue(config, inputs, seed=0)
    np.testing.assert_array_equal(found.codes, sids.codes[order])
    assert list(tried) == ["6/4"]
    residual = vectors.astype(np.float64)
    for level, book in enumerate(tokenizer.codebooks_):
        for code in range(len(book)):
            own = sids.codes[:, level] == code
            assert own.any()
            np.testing.assert_allclose(book[code], residual[own].mean(axis=0), atol=1e-5)
        residual = residual - book[sids.codes[:, level]]


def test_their_own_codebooks_come_back_from_their_own_vectors(vectors, theirs):
    """Codes of a converged k-means: the stand-ins of level 1 are its centroids."""
    books = standin_codebooks(vectors, theirs.encode(SidInputs(vectors)).codes, (6, 4))
    np.testing.assert_allclose(books[0], theirs.codebooks_[0], atol=1e-4)


def test_an_unused_code_stands_at_the_mean_of_its_level_and_lengths_may_differ():
    x = np.array([[2.0, 0], [4, 0], [0, 6]], np.float32)
    books = standin_codebooks(x, np.array([[0, 1], [0, -1], [2, -1]]), (3, 2))
    np.testing.assert_allclose(books[0], [[3, 0], [1.5, 3], [0, 6]])
    np.testing.assert_allclose(books[1], [[-1, 0], [-1, 0]])
    with pytest.raises(ValueError, match="do not fit"):
        standin_codebooks(x, np.zeros((2, 2), int), (3, 2))


def test_new_items_get_the_nearest_codes_that_the_table_uses(tmp_path, vectors, theirs):
    sids = theirs.encode(SidInputs(vectors))
    kept = sids.codes[:, 0] != 2  # code 2 of level 1 is free in the table: nobody may get it
    config = publish(tmp_path / "ids.json", SemanticIds(sids.codes[kept], sids.lengths[kept], (6,
    4)),
                     [i for i, k in zip(IDS, kept, strict=True) if k])  # fmt: skip
    inputs = SidInputs(vectors, item_ids=IDS)
    with pytest.raises(
        ValueError, match=rf"item '{IDS[int((~kept).argmax())]}' of the catalogue is not in the SID"
    ):
        fit_catalogue(config, inputs, seed=0)
    lenient = config.model_copy(
        update={"table": config.table.model_copy(update={"missing": "encode"})}
    )
    tokenizer, found, _ = fit_catalogue(lenient, inputs, seed=0)
    np.testing.assert_array_equal(found.codes[kept], sids.codes[kept])
    assert (found.lengths == 2).all()
    assert 2 not in found.codes[:, 0]
    used = np.unique(sids.codes[kept][:, 0])
    distance = np.square(vectors[~kept, None] - tokenizer.codebooks_[0][used]).sum(-1)
    np.testing.assert_array_equal(found.codes[~kept, 0], used[distance.argmin(1)])
    # near their own items, stand-ins give most items the code that the table gives them
    again = tokenizer.encode(SidInputs(vectors[kept]))
    assert (again.codes[:, 0] == sids.codes[kept][:, 0]).mean() > 0.9


def test_collision_tokens_make_lengths_differ_and_are_not_guessed(tmp_path, vectors):
    table = {item: [f"<a_{i % 6}>", f"<b_{i % 4}>"] for i, item in enumerate(IDS[:50])}
    for i in range(12, 50):
        table[IDS[i]].append(f"<c_{i // 12}>")
    (tmp_path / "ids.json").write_text(json.dumps(table))
    config = SidConfig(
        method="table", table={"path": str(tmp_path / "ids.json"), "missing": "encode"}
    )
    tokenizer, found, _ = fit_catalogue(config, SidInputs(vectors, item_ids=IDS), seed=0)
    assert not found.fixed_length
    assert (found.lengths[:12] == 2).all()
    assert (found.lengths[12:50] == 3).all()
    assert (found.lengths[50:] == 2).all()
    assert [len(book) for book in tokenizer.codebooks_] == list(found.codebook_sizes) == [6, 4, 5]


def test_it_is_kept_whole_and_items_that_come_later_get_their_own_sid(tmp_path, vectors, theirs):
    sids = theirs.encode(SidInputs(vectors))
    config = publish(tmp_path / "ids.json", sids)
    tokenizer, _, _ = fit_catalogue(config, SidInputs(vectors[:50], item_ids=IDS[:50]), seed=0)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, TableTokenizer)
    assert loaded.table.names == ("a", "b")
    for mine, other in zip(tokenizer.codebooks_, loaded.codebooks_, strict=True):
        np.testing.assert_array_equal(mine, other)
    later = loaded.encode(SidInputs(vectors[50:], item_ids=IDS[50:]))
    np.testing.assert_array_equal(later.codes, sids.codes[50:])
    strangers = loaded.encode(SidInputs(vectors[50:]))
    assert strangers.codes.shape == (10, 2)
    assert str(tmp_path) not in (tmp_path / "tokenizer.json").read_text()


def test_the_two_sides_must_meet(tmp_path, vectors, theirs):
    sids = theirs.encode(SidInputs(vectors))
    config = publish(tmp_path / "ids.json", sids)
    with pytest.raises(
        ValueError, match=r"none of the catalogue's 60 items .it has 'p0', the catalogue 'x0'"
    ):
        fit_catalogue(config, SidInputs(vectors, item_ids=[f"x{i}" for i in range(60)]), seed=0)
    strict = config.model_copy(
        update={"table": config.table.model_copy(update={"unknown": "error"})}
    )
    with pytest.raises(
        ValueError, match=r"item 'p50' of the SID table is not in the catalogue .10 such"
    ):
        fit_catalogue(strict, SidInputs(vectors[:50], item_ids=IDS[:50]), seed=0)
    with pytest.raises(ValueError, match="needs item_ids"):
        fit_catalogue(config, SidInputs(vectors), seed=0)
    with pytest.raises(ValueError, match=r"needs sid\.table"):
        fit_catalogue(SidConfig(method="table"), SidInputs(vectors, item_ids=IDS), seed=0)
    unfitted = TableTokenizer.from_config(config, (), 0)
    with pytest.raises(ValueError, match="call fit first"):
        unfitted.encode(SidInputs(vectors))
    broken = vectors.copy()
    broken[3] = np.nan
    with pytest.raises(ValueError, match="row 3 is not finite"):
        unfitted.fit(SidInputs(broken, item_ids=IDS))


def test_one_line_of_the_config_names_the_table(tmp_path):
    (tmp_path / "sidar.yaml").write_text(
        "sid: {method: table, table: ids.json, codebook_sizes: [8, 8, 8, 8]}"
    )
    cfg = load_config(tmp_path / "sidar.yaml", ["sid.table=other.json"])
    assert cfg.sid.table == TableConfig(path=str(tmp_path / "other.json"))
