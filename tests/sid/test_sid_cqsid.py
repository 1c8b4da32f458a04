"""CQ-SID: the claims of docs/methods/cqsid.md, its ablations, and what it does with a log or
catalogue with gaps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shops import Shop, shop

from sidar.config import CqSidConfig, SidConfig
from sidar.sid import CqSid, RqVae, load_tokenizer
from sidar.sid.quality import purity
from sidar.sid.stage import fit_catalogue
from sidar.sid.tokenizer import wants_queries
from sidar.types import SemanticIds, SidInputs

SMALL = {
    "hidden": [32],
    "latent": 12,
    "steps": 60,
    "batch_size": 128,
    "log_every": 20,
    "precision": "fp32",
}
SIZES = (16, 8, 4)


def fitted(
    inputs: SidInputs, sizes: tuple[int, ...] = SIZES, seed: int = 0, **options: object
) -> CqSid:
    return CqSid(sizes, seed, options={**SMALL, **options}).fit(inputs)


@pytest.fixture(scope="module")
def made() -> Shop:
    return shop(600)


def test_known_categories_carry_their_code_and_are_pure(made: Shop) -> None:
    tokenizer = fitted(made.inputs)
    sids = tokenizer.encode_catalogue(made.inputs)
    want = tokenizer.categories_.codes_of(made.inputs.categories, 600)
    known = want >= 0
    np.testing.assert_array_equal(sids.codes[known, 0], want[known])
    first = np.unique(sids.codes[known, 0], return_inverse=True)[1]
    paths = [["/".join(made.inputs.categories[i])] for i in np.flatnonzero(known)]
    assert purity([first], paths)[0]["purity"] == 1.0
    assert (sids.codes[~known, 0] < tokenizer.categories_.used).all()
    books = [book.numpy() for book in tokenizer.model.quantiser.books]
    z = tokenizer.latents(made.inputs.vectors)
    for row in np.flatnonzero(~known):  # unknown: the nearest of all codes that occur
        distance = np.square(z[row] - books[0][: tokenizer.categories_.used]).sum(1)
        assert distance[sids.codes[row, 0]] <= distance.min() + 1e-6
    unguided = fitted(made.inputs, category=False)
    first = np.unique(unguided.encode(made.inputs).codes[known, 0], return_inverse=True)[1]
    assert purity([first], paths)[0]["purity"] < 1.0


def test_the_code_of_a_category_is_the_moving_mean_of_its_items(made: Shop) -> None:
    tokenizer = fitted(made.inputs, steps=200, decay=0.9)
    z, book = tokenizer.latents(made.inputs.vectors), tokenizer.model.quantiser.books[0].numpy()
    want = tokenizer.categories_.codes_of(made.inputs.categories, 600)
    spread = np.linalg.norm(z[want == 0] - z[want == 0].mean(0), axis=1).mean()
    for code in range(len(tokenizer.categories_)):
        assert np.linalg.norm(book[code] - z[want == code].mean(0)) < 0.25 * spread


def test_no_sid_is_larger_than_t_max(made: Shop) -> None:
    whole = fitted(made.inputs, (8, 2, 2), max_bucket=None).encode_catalogue(made.inputs)
    assert np.unique(whole.codes, axis=0, return_counts=True)[1].max() > 20
    tokenizer = fitted(made.inputs, (8, 2, 2), max_bucket=10)
    sids = tokenizer.encode_catalogue(made.inputs)
    assert np.unique(sids.codes, axis=0, return_counts=True)[1].max() <= 10
    assert sids.codebook_sizes[:2] == (8, 2)
    assert sids.codebook_sizes[2] == tokenizer.split_.size > 2
    assert [len(book) for book in tokenizer.codebooks_] == list(sids.codebook_sizes)
    np.testing.assert_array_equal(sids.codes[:, :2], whole.codes[:, :2])
    np.testing.assert_array_equal(tokenizer.split_.base(sids.codes), whole.codes)
    np.testing.assert_allclose(
        tokenizer.reconstruct(sids.codes[:9]), tokenizer.reconstruct(whole.codes[:9])
    )
    newcomers = shop(80, seed=7).inputs
    found = tokenizer.encode(newcomers)
    assert found.codes[:, 2].max() < sids.codebook_sizes[2]
    again = tokenizer.encode(
        replace(newcomers, vectors=newcomers.vectors[:5], categories=newcomers.categories[:5])
    )
    np.testing.assert_array_equal(again.codes, found.codes[:5])  # its group is the item's own
    np.testing.assert_array_equal(tokenizer.encode(made.inputs).codes, sids.codes)


def shared_prefix(sids: SemanticIds, theme: np.ndarray) -> float:
    """Share of pairs of one theme (what queries ask for) that have the same first code, beyond
    pairs of two themes.
    """
    same = sids.codes[:, None, 0] == sids.codes[None, :, 0]
    one = theme[:, None] == theme[None]
    apart = ~np.eye(len(theme), dtype=bool)
    return float(same[one & apart].mean() - same[~one].mean())


def test_without_the_query_contrast_items_of_one_query_share_prefixes_less(made: Shop) -> None:
    """Themes cut across categories, so the first level is left to the vectors here. The effect must
    be every seed's.

    γ is larger than the paper's and few steps are longer: errors are means over D = 24 dimensions
    instead of hundreds.
    """
    options = {"category": False, "gamma": 0.2, "steps": 200, "lr": 3e-3}
    gains = []
    for seed in range(3):
        with_queries, without = (
            fitted(made.inputs, seed=seed, contrast=contrast, **options).encode(made.inputs)
            for contrast in (True, False)
        )
        gains.append(shared_prefix(with_queries, made.theme) - shared_prefix(without, made.theme))
    assert min(gains) > 0.02


def test_items_without_a_query_still_get_codes_and_only_pairs_are_contrasted(made: Shop) -> None:
    few = replace(made.inputs, query_item_pairs=made.inputs.query_item_pairs[:3])
    tokenizer = fitted(few)
    assert tokenizer.encode(few).codes.shape == (600, 3)
    contrast = [record["contrast"] for record in tokenizer.history_]
    assert all(np.isfinite(contrast))
    assert "contrast" not in fitted(made.inputs, contrast=False).history_[0]
    assert "contrast" not in fitted(made.inputs, gamma=0.0).history_[0]


def test_the_contrast_can_see_latents_before_they_are_quantised(made: Shop) -> None:
    quantised, encoder = (fitted(made.inputs, contrast_on=on) for on in ("quantised", "encoder"))
    assert quantised.history_[0]["contrast"] != encoder.history_[0]["contrast"]
    assert quantised.params()["options"]["contrast_on"] == "quantised"


def test_with_neither_idea_it_is_rqvae(made: Shop) -> None:
    """Both ablations together leave an RQ-VAE of the same β."""
    bare = fitted(made.inputs, category=False, contrast=False, max_bucket=None)
    plain = RqVae(SIZES, options={**SMALL, "beta": 1.0}).fit(made.inputs)
    np.testing.assert_array_equal(bare.encode(made.inputs).codes, plain.encode(made.inputs).codes)


def test_saved_and_loaded(made: Shop, tmp_path: Path) -> None:
    tokenizer = fitted(made.inputs, (8, 2, 2), max_bucket=10)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, CqSid)
    assert loaded.codebook_sizes == tokenizer.codebook_sizes
    want = tokenizer.encode_catalogue(made.inputs)
    np.testing.assert_array_equal(loaded.encode_catalogue(made.inputs).codes, want.codes)
    np.testing.assert_array_equal(loaded.reconstruct(want.codes), tokenizer.reconstruct(want.codes))
    assert want.method == "cqsid"
    without = SidInputs(made.inputs.vectors[:4])
    assert loaded.encode(without).codes.shape == (4, 3)


# What may be missing


def test_a_log_without_queries_is_a_note_and_not_an_end(made: Shop) -> None:
    for silent in (
        replace(made.inputs, query_vectors=None, query_item_pairs=None),
        replace(
            made.inputs,
            query_vectors=np.zeros((0, 0), np.float32),
            query_item_pairs=np.zeros((0, 2), np.int64),
        ),
    ):
        tokenizer = fitted(silent)
        assert any("without the query contrast" in note for note in tokenizer.notes_)
        np.testing.assert_array_equal(
            tokenizer.encode(made.inputs).codes,
            fitted(made.inputs, contrast=False).encode(made.inputs).codes,
        )
    with pytest.raises(ValueError, match="query vectors have 5 dimensions, item vectors 24"):
        fitted(replace(made.inputs, query_vectors=made.inputs.query_vectors[:, :5]))


def test_a_catalogue_without_categories_is_an_error_that_names_the_switch(made: Shop) -> None:
    for missing in (None, [[]] * 600):
        with pytest.raises(ValueError, match=r"sid\.cqsid\.category: false"):
            fitted(replace(made.inputs, categories=missing))
        assert (
            fitted(replace(made.inputs, categories=missing), category=False)
            .encode(made.inputs)
            .codes.shape[1]
            == 3
        )


def test_one_category_for_all_and_few_items() -> None:
    made = shop(40, unknown=0.0)
    one = replace(made.inputs, categories=[["only"]] * 40)
    tokenizer = fitted(one)
    assert set(tokenizer.encode(one).codes[:, 0]) == {0}
    assert any("the same one (only)" in note for note in tokenizer.notes_)
    same = SidInputs(np.ones((9, 6), np.float32), [["a"]] * 5 + [["b"]] * 4)
    sids = fitted(same, max_bucket=3).encode_catalogue(same)
    # identical items of one category: split all the same
    assert len(np.unique(sids.codes[:5], axis=0)) == 2
    assert set(sids.codes[:, 0]) == {0, 1}
    lone = SidInputs(np.eye(1, 6, dtype=np.float32), [["a"]])
    assert fitted(lone).encode(lone).codes.shape == (1, 3)


def test_the_config_chooses_it_and_asks_for_queries(made: Shop) -> None:
    config = SidConfig.model_validate(
        {"method": "cqsid", "codebook_sizes": list(SIZES), "cqsid": SMALL}
    )
    assert (config.cqsid.beta, config.cqsid.gamma, config.cqsid.temperature) == (1.0, 0.001, 0.1)
    assert (config.cqsid.decay, config.cqsid.max_bucket, config.cqsid.max_groups) == (0.99, 50, 100)
    assert wants_queries(config) == CqSidConfig().max_queries
    for other in (
        {"cqsid": {"contrast": False}},
        {"cqsid": {"gamma": 0}},
        {"method": "rqvae"},
        {"method": "rqkmeans"},
    ):
        assert wants_queries(SidConfig.model_validate({"method": "cqsid", **other})) == 0
    assert (
        wants_queries(SidConfig.model_validate({"method": "sarq", "sarq": {"base": "cqsid"}})) > 0
    )
    tokenizer, sids, _ = fit_catalogue(config, made.inputs, 0)
    assert isinstance(tokenizer, CqSid)
    assert sids.method == "cqsid"
