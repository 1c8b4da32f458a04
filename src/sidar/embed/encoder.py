"""Text → unit vectors.

Two encoders share one interface: sentence-transformers, and hashed words for tests.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sidar.precision import Precision, autocast, use_bf16

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Embedder(Protocol):
    """What turns texts into vectors.

    Two embedders with one ``fingerprint`` give the same vectors, up to rounding.
    """

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def bf16(self) -> bool:
        """Whether the matrix products run in bf16: such vectors are cached apart."""

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """(n, D) float32, rows of length 1, in the order of ``texts``."""
        ...


class SentenceEmbedder:
    """A sentence-transformers model: texts are cut at ``max_tokens`` and batched by length.

    bf16 autocast is used where it pays; against fp32, MiniLM's vectors keep a cosine of .9999 or
    more.
    """

    def __init__(
        self, model: SentenceTransformer, max_tokens: int = 128, precision: Precision = "auto"
    ) -> None:
        self.model = model
        self.precision = precision
        limit = model.max_seq_length
        # word vectors (StaticEmbedding) read everything and have no such switch
        if limit != math.inf:
            model.max_seq_length = max_tokens if limit is None else min(max_tokens, limit)
        self.fingerprint = _fingerprint(model)
        self.dim = int(self.encode(["dimension"]).shape[1])

    @property
    def bf16(self) -> bool:
        """Whether the matrix products run in bf16 on this device."""
        return use_bf16(self.model.device, self.precision)

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        if not texts:
            return np.empty((0, self.dim), np.float32)
        with autocast(self.model.device, self.precision):
            vectors = self.model.encode(list(texts), batch_size=batch_size, show_progress_bar=False)
        return unit_rows(np.asarray(vectors, np.float32))


class HashingEmbedder:
    """Vectors of hashed words and letter trigrams: similar texts have similar vectors, nothing is
    loaded.

    For tests, docs and demos that need an embedder's interface and not its quality.
    """

    bf16 = False

    def __init__(self, dim: int = 64) -> None:
        self.dim = dim
        self.fingerprint = f"hashing-1-{dim}"

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                parts = [(word, 1.0), *((f"#{word[i : i + 3]}", 0.5) for i in range(len(word) - 2))]
                for part, weight in parts:
                    bits = int.from_bytes(
                        hashlib.blake2b(part.encode(), digest_size=8).digest(), "little"
                    )
                    vectors[row, (bits >> 1) % self.dim] += weight if bits & 1 else -weight
        return unit_rows(vectors)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros (an empty text) becomes the first unit vector, so
    that it has a place.

    A ``ValueError`` names a row that is not finite.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"the encoder returned a vector that is not finite for text {int(finite.argmin())}"
        )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    unit[norms[:, 0] == 0, :1] = 1
    return unit


def load_sentence_transformer(name: str, device: str) -> SentenceTransformer:
    """Load without a progress bar on stderr; the user's setting is put back.

    ``ValueError`` names what is not there.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as hf_logging

    noisy = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        return SentenceTransformer(name, device=device)
    except (OSError, ValueError, KeyError) as error:
        where = (
            ""
            if Path(name).exists()
            else " (there is no such folder, so it was looked up on the hub)"
        )
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"embed.model {name!r} cannot be loaded{where}: {reason}") from error
    finally:
        if noisy:
            hf_logging.enable_progress_bar()


def _fingerprint(model: SentenceTransformer) -> str:
    """Hash of what decides the vectors: modules, pooling, weights, vocabulary and length limit.

    Not the folder's name, nor anything that a newer library prints differently: a cache or bundle
    outlives an upgrade.
    """
    import torch

    # the attribute is sentence-transformers 6's name, the method that of the versions before
    pooling = [
        getattr(m, "pooling_mode", None) or getattr(m, "get_pooling_mode_str", str)() for m in model
    ]
    modules = [(type(m).__name__, mode) for m, mode in zip(model, pooling, strict=True)]
    digest = hashlib.sha256(f"{model.max_seq_length}\n{modules}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for token, number in sorted(model.tokenizer.get_vocab().items()):
        digest.update(f"{token} {number}\n".encode())
    return digest.hexdigest()[:32]
