"""``sid.view``: which view of the items a tokenizer quantises, and what meets it on the side of
queries.
"""

import numpy as np
import pytest
from toy_stages import config

from sidar.baselines import reconstruct
from sidar.data import build as build_data
from sidar.data import open_dataset, toy
from sidar.embed import load_items
from sidar.sid import build, load_sids, load_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    toy.write_inputs(folder / "inputs")
    cfg = config(folder / "inputs")
    build_data(cfg, folder / "data")
    (folder / "embed").mkdir()
    for seed, name in enumerate(("items", "items_query")):
        vectors = np.random.default_rng(seed).standard_normal((64, 6)).astype(np.float32)
        np.save(
            folder / "embed" / f"{name}.npy",
            vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        )
    return cfg, folder


@pytest.mark.parametrize(("view", "dim"), [("item", 6), ("query", 6), ("both", 12)])
def test_the_stage_quantises_the_view_that_was_asked_for(run, tmp_path, view, dim):
    cfg, folder = run
    cfg = cfg.model_copy(
        update={"sid": cfg.sid.model_copy(update={"view": view, "codebook_sizes": [8, 4, 4]})}
    )
    build(cfg, folder / "data", folder / "embed", tmp_path)
    books = load_tokenizer(tmp_path).codebooks_
    assert {book.shape[1] for book in books} == {dim}
    codes = load_sids(
        tmp_path / "sids.parquet", open_dataset(folder / "data").catalogue.item_ids
    ).codes
    kept = reconstruct(books, codes)
    errors = {}
    for other in ("item", "query"):
        vectors = load_items(folder / "embed", other)
        half = kept if view != "both" else kept[:, 6 * (other == "item") :][:, :6] * np.sqrt(2)
        errors[other] = np.square(half - vectors).sum(axis=1).mean()
    fitted = {"item": ["item"], "query": ["query"], "both": ["item", "query"]}[view]
    assert all(errors[name] < 0.75 for name in fitted)
    assert all(errors[name] > 1 for name in errors if name not in fitted)


def test_a_view_that_the_embedding_does_not_have_is_an_error_with_the_next_step(run, tmp_path):
    cfg, folder = run
    (tmp_path / "embed").mkdir()
    np.save(tmp_path / "embed" / "items.npy", load_items(folder / "embed"))
    cfg = cfg.model_copy(update={"sid": cfg.sid.model_copy(update={"view": "both"})})
    with pytest.raises(ValueError, match=r"dense\.towers=two.*or set sid\.view to item"):
        build(cfg, folder / "data", tmp_path / "embed", tmp_path)
