"""What every tokenizer shares: the interface, the registry, and folders that say which tokenizer made them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sidar.config import SidConfig
from sidar.types import PathLike, SemanticIds, SidInputs

FILE = "tokenizer.json"
#: Largest component of a vector: squared distances of a whole catalogue then add up in float32.
LARGEST = 1e12


class Tokenizer(Protocol):
    """Vectors → Semantic IDs. ``fit`` learns codebooks; ``encode`` is pure and takes items never seen before."""

    method: str

    @classmethod
    def from_config(cls, config: SidConfig, codebook_sizes: Sequence[int], seed: int, device: str) -> Any:
        """The unfitted tokenizer with its part of the config."""
        ...

    def fit(self, inputs: SidInputs) -> Any: ...

    def encode(self, inputs: SidInputs) -> SemanticIds: ...

    def encode_catalogue(self, inputs: SidInputs) -> SemanticIds:
        """SIDs of a whole catalogue at once, where the codes of one item may depend on the others (balancing)."""
        ...

    @property
    def codebooks_(self) -> list[np.ndarray]:
        """Per level (K, D) float32; an item's vector is about the sum of its codes' rows."""
        ...

    def params(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        ...

    def save(self, folder: PathLike) -> None: ...

    @classmethod
    def load(cls, folder: PathLike) -> Tokenizer: ...


_REGISTRY: dict[str, Any] = {}


def register(method: str) -> Callable[[Any], Any]:
    """Class decorator: ``sid.method: <method>`` and :func:`load_tokenizer` find the class by this name."""

    def add(cls: Any) -> Any:
        cls.method = method
        _REGISTRY[method] = cls
        return cls

    return add


def tokenizer_class(method: str) -> Any:
    """The tokenizer registered as ``method``; ``ValueError`` lists those that there are."""
    try:
        return _REGISTRY[method]
    except KeyError:
        raise ValueError(f"sid.method {method!r} is not one of {sorted(_REGISTRY)}") from None


def wants_queries(config: SidConfig) -> int:
    """How many of the log's queries a fit of ``config.method`` asks for (``wants_queries`` of its class); 0 = none."""
    method = config.sarq.base if config.method == "sarq" else config.method
    ask = getattr(_REGISTRY.get(method), "wants_queries", None)
    return 0 if ask is None else int(ask(config))


def trained_part(tokenizer: Any) -> Any:
    """The tokenizer, or the one that it is built over, whose fit is a training; None where none is.

    Such a part has ``work`` (folder of interrupted work, or None), ``progress``, ``history_`` (records of its log) and
    ``options.collapse_below``.
    """
    while tokenizer is not None and not hasattr(tokenizer, "work"):
        tokenizer = getattr(tokenizer, "base", None)
    return tokenizer


def write_description(folder: PathLike, tokenizer: Tokenizer) -> None:
    """``tokenizer.json``: the method and its parameters."""
    about = {"method": tokenizer.method, "params": tokenizer.params()}
    (Path(folder) / FILE).write_text(json.dumps(about, indent=1) + "\n")


def read_description(folder: PathLike) -> dict[str, Any]:
    """What :func:`write_description` wrote; ``ValueError`` where there is none."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist; make it with `sidar sid`")
    return json.loads(path.read_text())


def load_tokenizer(folder: PathLike) -> Tokenizer:
    """The fitted tokenizer of an SID artefact."""
    return tokenizer_class(read_description(folder)["method"]).load(folder)


def checked_vectors(inputs: SidInputs, dim: int | None = None) -> np.ndarray:
    """(N, D) float32 contiguous; ``ValueError`` names the first row and item not finite or above :data:`LARGEST`, or a
    width that differs."""
    vectors = np.asarray(inputs.vectors, np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be (N, D), got shape {vectors.shape}")
    if dim is not None and vectors.shape[1] != dim:
        raise ValueError(f"vectors have {vectors.shape[1]} dimensions, the codebooks {dim}; encode with their embedder")
    for start in range(0, len(vectors), 1 << 18):
        block = vectors[start : start + (1 << 18)]
        with np.errstate(invalid="ignore"):  # NaN is not <= anything
            good = (block.max(axis=1, initial=0) <= LARGEST) & (block.min(axis=1, initial=0) >= -LARGEST)
        if not good.all():
            row = start + int(good.argmin())
            item = "" if inputs.item_ids is None else f"item {inputs.item_ids[row]!r}, "
            if not np.isfinite(vectors[row]).all():
                raise ValueError(f"the vector of {item}row {row} is not finite; run `sidar embed` again")
            raise ValueError(
                f"the vector of {item}row {row} has a component of {np.abs(vectors[row]).max():.3g}, beyond "
                f"{LARGEST:g}: squares do not add up in float32; bring vectors to length 1, or run `sidar embed` again"
            )
    return np.ascontiguousarray(vectors)
