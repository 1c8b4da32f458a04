"""What every tokenizer shares: the interface, the registry, and folders that say which tokenizer
made them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
from pydantic import BaseModel
from safetensors.numpy import load_file, save_file

from sidar.config import SidConfig
from sidar.extensions import TOKENIZERS, check_class, check_name, checked_options
from sidar.restore import reconstruct
from sidar.types import Json, PathLike, SemanticIds, SidInputs

if TYPE_CHECKING:
    from sidar.sid.categories import CategoryCodes

FILE = "tokenizer.json"
CODEBOOKS = "codebooks.safetensors"
#: Largest component of a vector: squared distances of a whole catalogue then add up in float32.
LARGEST = 1e12


class Tokenizer(ABC):
    """Vectors → Semantic IDs. ``fit`` learns codebooks; ``encode`` also takes items never seen
    before.

    A tokenizer of your own is a subclass with :meth:`fit` and :meth:`encode`, registered by
    :func:`register_tokenizer`; everything else has a default (docs/extending.md). What differs from
    item to item goes through :class:`~sidar.types.SidInputs`; what a user sets comes as
    ``options``, an instance of the pydantic model given to :func:`register_tokenizer`.

    After ``fit``: ``codebooks_``, per level (K, D) float32 in the space of the vectors. Where a
    code has no place in that space, means of the items that carry it do
    (:func:`sidar.sid.codebooks.standin.standin_codebooks`); then override :meth:`reconstruct`.
    """

    method: ClassVar[str]
    options_class: ClassVar[type[BaseModel] | None] = None

    #: True: codebook sizes come with the IDs, and the stage tries no others.
    has_own_sizes: ClassVar[bool] = False
    #: False: codes say nothing of the vectors (a control), so sizes go by items per SID alone.
    keeps_vectors: ClassVar[bool] = True
    #: True: a fit is cheap, so that a second one without some items can serve as the reference of
    #: the drift alarms (sid/lifecycle/reference.py).
    cheap_to_refit: ClassVar[bool] = False
    #: True: a fit is a training, with interrupted work in ``work`` and a log in ``history_``.
    is_trained: ClassVar[bool] = False

    #: The tokenizer that this one is built over (SARQ), else None.
    base: Tokenizer | None = None
    #: Codes of categories where the first level is guided by them, else None.
    categories_: CategoryCodes | None = None
    #: SIDs by which sizes are chosen where that is another number than that of the written SIDs.
    n_fixed_sids_: int | None = None
    #: Folder for interrupted work of a training, and whether to print progress.
    work: Path | None = None
    progress: bool = False

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        seed: int = 0,
        *,
        options: BaseModel | Mapping[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        self.base_sizes = checked_sizes(codebook_sizes)
        self.seed = seed
        self.device = device
        self.options: Any = checked_options(self.options_class, options)
        self.codebooks_: list[np.ndarray] = []
        #: Sentences for the user about the input or the fit; shown in the stage's summary.
        self.notes_: list[str] = []
        #: Records of a training: ``step``, ``loss`` and what else it logs.
        self.history_: list[Json] = []

    @classmethod
    def from_config(
        cls, config: SidConfig, codebook_sizes: Sequence[int], seed: int, device: str = "cpu"
    ) -> Self:
        """Return the unfitted tokenizer with its section of the config, ``sid.<method>``."""
        return cls(codebook_sizes, seed, options=config.section(cls.method), device=device)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes per level of the SIDs that are written."""
        return self.base_sizes

    # ------------------------------------------------------------------ what a subclass writes

    @abstractmethod
    def fit(self, inputs: SidInputs) -> Self:
        """Learn ``codebooks_`` from the vectors (N, D) of a catalogue."""

    @abstractmethod
    def encode(self, inputs: SidInputs) -> SemanticIds:
        """Return the SIDs of items on their own, those never seen before included: codes (N, L)."""

    # ------------------------------------------------------------------ what a subclass may change

    def encode_catalogue(self, inputs: SidInputs) -> SemanticIds:
        """Return the SIDs of a whole catalogue, where the codes of one item may
        depend on others.
        """
        return self.encode(inputs)

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """Return what ``codes`` (n, L), −1 past the end, keep of their items: (n, D) float32.

        By default the sum of their centroids; a tokenizer with a decoder asks that.
        """
        return reconstruct(self.codebooks_, codes)

    def refresh(
        self, inputs: SidInputs, previous: SemanticIds, stays: np.ndarray
    ) -> SemanticIds | None:
        """Return tomorrow's SIDs of items with the SIDs ``previous``, by a rule of the method's
        own.

        ``stays`` (n,) bool: items whose vector is yesterday's, or nearly. None: the general rule
        stands (sid/lifecycle/refresh.py).
        """
        return None

    @classmethod
    def wants_queries(cls, config: SidConfig) -> int:
        """Return how many of the log's queries a fit asks for in ``SidInputs``; 0 = none."""
        return 0

    @property
    def collapse_below(self) -> float:
        """Share of a level's codes in use below which it is called collapsed."""
        return 0.5

    # ------------------------------------------------------------------ on disk

    def params(self) -> Json:
        """Return the constructor's arguments, JSON-able."""
        params: Json = {"codebook_sizes": list(self.base_sizes), "seed": self.seed}
        if self.options is not None:
            params["options"] = json.loads(self.options.model_dump_json())
        return params

    def save(self, folder: PathLike) -> None:
        """Write ``codebooks.safetensors`` and ``tokenizer.json`` into ``folder``."""
        self.save_codebooks(folder)
        write_description(folder, self)

    @classmethod
    def load(cls, folder: PathLike, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote."""
        tokenizer = cls(**read_description(folder)["params"], device=device)
        tokenizer.load_codebooks(folder)
        return tokenizer

    def save_codebooks(self, folder: PathLike) -> None:
        """Write ``codebooks_`` into ``folder``."""
        books = {
            f"level.{level}": np.ascontiguousarray(book)
            for level, book in enumerate(self.codebooks_)
        }
        save_file(books, Path(folder) / CODEBOOKS)

    def load_codebooks(self, folder: PathLike) -> None:
        """Read ``codebooks_`` from ``folder``."""
        books = load_file(Path(folder) / CODEBOOKS)
        self.codebooks_ = [books[f"level.{level}"] for level in range(len(books))]

    # ------------------------------------------------------------------ for the stage

    def chain(self) -> Iterator[Tokenizer]:
        """Yield the tokenizer and, one after another, those that it is built over."""
        part: Tokenizer | None = self
        while part is not None:
            yield part
            part = part.base

    def trained_part(self) -> Tokenizer | None:
        """Return the part of the chain whose fit is a training; None where none is."""
        return next((part for part in self.chain() if part.is_trained), None)

    def guided_part(self) -> Tokenizer | None:
        """Return the part of the chain whose first level is guided by categories; None = none."""
        return next((part for part in self.chain() if part.categories_ is not None), None)

    def full_table(self, codes: np.ndarray) -> SemanticIds:
        """Return codes (N, L) that all have full length as SIDs of this tokenizer.

        ``ValueError`` where codes are no whole numbers from 0 to below the size of their level.
        """
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.dtype.kind not in "iu":
            raise ValueError(
                f"sid.method {self.method!r}: codes must be whole numbers (N, L), got "
                f"{codes.dtype} {codes.shape}"
            )
        lengths = np.full(len(codes), codes.shape[1], np.int32)
        try:
            return SemanticIds(codes.astype(np.int32), lengths, self.codebook_sizes, self.method)
        except ValueError as error:
            raise ValueError(f"sid.method {self.method!r}: {error}") from error

    def check_fitted(self) -> None:
        """Raise ``ValueError`` where :meth:`fit` has not been called."""
        if not self.codebooks_:
            raise ValueError("this tokenizer has no codebooks yet; call fit first")


T = TypeVar("T", bound=type[Tokenizer])


def register_tokenizer(method: str, options: type[BaseModel] | None = None) -> Callable[[T], T]:
    """Return a class decorator: ``sid.method: <method>`` finds the class, ``sid.<method>`` its
    options.
    """

    check_name(method, "register_tokenizer")

    def add(cls: T) -> T:
        check_class(cls, Tokenizer, "register_tokenizer")
        cls.method = method
        if options is not None:
            cls.options_class = options
        TOKENIZERS.add(method, cls, cls.__module__, cls.options_class)
        return cls

    return add


def tokenizer_class(method: str) -> type[Tokenizer]:
    """Return the tokenizer registered as ``method``; ``ValueError`` lists those that there are."""
    return TOKENIZERS[method]


def wants_queries(config: SidConfig) -> int:
    """Return how many of the log's queries a fit under ``config`` asks for; 0 = none."""
    return tokenizer_class(config.method).wants_queries(config)


def checked_sizes(codebook_sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes; ``ValueError`` where there are none, or one is not positive."""
    if not codebook_sizes or min(codebook_sizes) < 1:
        raise ValueError(f"codebook_sizes must be positive, got {tuple(codebook_sizes)}")
    return tuple(int(size) for size in codebook_sizes)


def write_description(folder: PathLike, tokenizer: Tokenizer) -> None:
    """Write ``tokenizer.json``: the method and its parameters."""
    about = {"method": tokenizer.method, "params": tokenizer.params()}
    (Path(folder) / FILE).write_text(json.dumps(about, indent=1) + "\n")


def read_description(folder: PathLike) -> Json:
    """What :func:`write_description` wrote; ``ValueError`` where there is none."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist; make it with `sidar sid`")
    return json.loads(path.read_text())


def load_tokenizer(folder: PathLike) -> Tokenizer:
    """The fitted tokenizer of an SID artefact."""
    return tokenizer_class(read_description(folder)["method"]).load(folder)


def stored_codebooks(folder: PathLike) -> list[np.ndarray]:
    """Return the codebooks of an SID artefact, also where no plug-in brings its tokenizer."""
    file = Path(folder) / CODEBOOKS
    if read_description(folder)["method"] not in TOKENIZERS.builtin and file.is_file():
        books = load_file(file)
        return [books[f"level.{level}"] for level in range(len(books))]
    return load_tokenizer(folder).codebooks_


def checked_vectors(inputs: SidInputs, dim: int | None = None) -> np.ndarray:
    """(N, D) float32 contiguous; ``ValueError`` names the first row and item not finite or above
    :data:`LARGEST`, or a width that differs."""
    vectors = np.asarray(inputs.vectors, np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be (N, D), got shape {vectors.shape}")
    if dim is not None and vectors.shape[1] != dim:
        raise ValueError(
            f"vectors have {vectors.shape[1]} dimensions, the codebooks {dim}; encode with their "
            "embedder"
        )
    for start in range(0, len(vectors), 1 << 18):
        block = vectors[start : start + (1 << 18)]
        with np.errstate(invalid="ignore"):  # NaN is not <= anything
            good = (block.max(axis=1, initial=0) <= LARGEST) & (
                block.min(axis=1, initial=0) >= -LARGEST
            )
        if not good.all():
            row = start + int(good.argmin())
            item = "" if inputs.item_ids is None else f"item {inputs.item_ids[row]!r}, "
            if not np.isfinite(vectors[row]).all():
                raise ValueError(
                    f"the vector of {item}row {row} is not finite; run `sidar embed` again"
                )
            raise ValueError(
                f"the vector of {item}row {row} has a component of "
                f"{np.abs(vectors[row]).max():.3g}, beyond "
                f"{LARGEST:g}: squares do not add up in float32; bring vectors to length 1, or "
                "run `sidar embed` again"
            )
    return np.ascontiguousarray(vectors)


def checked_counts(inputs: SidInputs) -> np.ndarray | None:
    """Return the (n,) int64 interactions of the items; None where the inputs have none.

    Raises ``ValueError`` for another number of counts than of vectors, and for one below 0 or none.
    """
    if inputs.counts is None:
        return None
    counts = np.asarray(inputs.counts)
    if counts.shape != (len(inputs.vectors),):
        raise ValueError(
            f"counts {counts.shape} do not fit {len(inputs.vectors)} vectors; want one per item"
        )
    bad = ~np.isfinite(counts) | (counts < 0)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"the count of row {row} is {counts[row]}; counts are numbers from 0 up")
    return counts.astype(np.int64)
