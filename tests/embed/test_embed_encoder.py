"""Encoders: the offline default, a local folder, hashed words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoder import save_tiny_encoder

from sidar.config import EmbedConfig
from sidar.embed import HashingEmbedder, SentenceEmbedder, load_embedder
from sidar.embed.encoder import unit_rows
from sidar.embed.minilm import SHA256, verify_weights

TEXTS = [
    "stainless steel water bottle",
    "insulated bottle for drinking water",
    "bath towel set",
    "",
    "x " * 600,
]


@pytest.fixture(scope="module")
def minilm() -> SentenceEmbedder:
    embedder = load_embedder(EmbedConfig(dtype="fp32"), device="cpu")
    assert isinstance(embedder, SentenceEmbedder)
    return embedder


def test_minilm_tells_meaning(minilm: SentenceEmbedder) -> None:
    vectors = minilm.encode(TEXTS)  # (5, 384)
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, minilm.dim) == (5, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    assert minilm.encode([]).shape == (0, 384)


def test_batch_equals_one_by_one_in_fp32(minilm: SentenceEmbedder) -> None:
    one_by_one = np.concatenate([minilm.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(minilm.encode(TEXTS, batch_size=3), one_by_one, atol=2e-6)


def test_bf16_keeps_the_vectors(minilm: SentenceEmbedder) -> None:
    low = SentenceEmbedder(minilm.model, precision="bf16")
    assert low.bf16
    cosines = (low.encode(TEXTS) * minilm.encode(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.999
    # the same encoder: a bundle may move to a machine without bf16
    assert low.fingerprint == minilm.fingerprint


def test_any_local_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_encoder(tmp_path / "a", seed=0)
    capfd.readouterr()
    first = load_embedder(EmbedConfig(model=str(folder), dtype="fp32", max_tokens=8), "cpu")
    assert capfd.readouterr().err == ""  # no progress bar
    assert first.dim == 16
    assert first.encode(["one two", "three"]).shape == (2, 16)
    again = load_embedder(EmbedConfig(model=str(folder), dtype="fp32", max_tokens=8), "cpu")
    assert again.fingerprint == first.fingerprint
    longer = load_embedder(EmbedConfig(model=str(folder), dtype="fp32", max_tokens=9), "cpu")
    other = load_embedder(
        EmbedConfig(model=str(save_tiny_encoder(tmp_path / "b", seed=1)), max_tokens=8), "cpu"
    )
    assert len({first.fingerprint, longer.fingerprint, other.fingerprint}) == 3


def test_text_is_cut_at_max_tokens() -> None:
    short = load_embedder(EmbedConfig(dtype="fp32", max_tokens=6), "cpu")  # [CLS] + 4 words + [SEP]
    np.testing.assert_allclose(
        *short.encode(["red green blue pink", "red green blue pink and more"]), atol=1e-6
    )


def test_errors_name_the_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"embed\.model .* cannot be loaded"):
        load_embedder(EmbedConfig(model=str(tmp_path)), "cpu")
    damaged = tmp_path / "model.safetensors"
    damaged.write_bytes(b"not the weights")
    with pytest.raises(ValueError, match="not the published weights"):
        verify_weights(damaged, SHA256)


@given(st.lists(st.text(max_size=30), max_size=8), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_hashing_is_deterministic_and_unit(texts: list[str], dim: int) -> None:
    vectors = HashingEmbedder(dim).encode(texts)
    assert vectors.shape == (len(texts), dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[::-1], HashingEmbedder(dim).encode(texts[::-1]))


def test_hashing_tells_words() -> None:
    embedder = load_embedder(EmbedConfig(model="hashing:256"))
    towel, towels, kettle = embedder.encode(
        ["red bath towel", "red bath towels", "electric kettle"]
    )
    assert towel @ towels > 0.6 > 0.3 > towel @ kettle


def test_a_vector_that_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match="text 1"):
        unit_rows(np.array([[1.0, 0.0], [np.nan, 1.0]], np.float32))


def test_a_hashing_encoder_without_a_number_is_named():
    with pytest.raises(ValueError, match="hashing:<dim>"):
        load_embedder(EmbedConfig(model="hashing:abc"))
