"""Where the memory's secret is: the environment, a named file, or ``memory.key`` of the run; never
in a bundle.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from sidar.answer.memory import Memory, key_check
from sidar.types import PathLike

VARIABLE = "SIDAR_MEMORY_KEY"
FILE = "memory.key"


def find_key(places: list[PathLike]) -> bytes | None:
    """Return the secret from ``SIDAR_MEMORY_KEY`` or the first of the files ``places`` that is
    there, else None.

    Raises ``ValueError`` for an empty one.
    """
    if VARIABLE in os.environ:
        return _not_empty(os.environ[VARIABLE], VARIABLE)
    for place in places:
        if Path(place).is_file():
            return _not_empty(Path(place).read_text(encoding="utf-8"), str(place))
    return None


def find_or_make_key(path: PathLike) -> bytes:
    """Return the secret as :func:`find_key` does; a new random one, readable by its owner alone,
    where none is.
    """
    found = find_key([path])
    if found is not None:
        return found
    file = Path(path)
    _write(file, secrets.token_hex(32) + "\n")
    return _not_empty(file.read_text(encoding="utf-8"), str(file))


def bundle_key(bundle: PathLike, given: bytes | None = None, key_file: str = "") -> bytes:
    """Return ``given``, or else the secret of a bundle's memory.

    That is ``SIDAR_MEMORY_KEY``, ``key_file`` where one is named, or ``memory.key`` beside the
    bundle.  Raises ``ValueError`` where there is none.
    """
    beside = Path(bundle).resolve().parent
    named: list[PathLike] = [key_file] if key_file else []
    secret = given or find_key([*named, beside / FILE])
    if secret is None:
        raise ValueError(
            f"{bundle} answers from a memory of queries whose key is kept apart: set {VARIABLE}, "
            f"or put {FILE} of the run that made it into {beside}"
        )
    return secret


def check_carried(memory: Memory, places: Sequence[PathLike]) -> None:
    """Raise ``ValueError`` where a bundle with ``memory`` would find one of the keys in ``places``
    and not load.

    ``places`` are folders that may hold a ``memory.key``; ``SIDAR_MEMORY_KEY`` goes before all of
    them.
    """
    for place in places:
        secret = find_key([Path(place) / FILE])
        if secret is None or key_check(secret) == memory.facts.key:
            continue
        where = VARIABLE if VARIABLE in os.environ else str(Path(place) / FILE)
        raise ValueError(
            f"{where} is not the key that the bundle's memory was made with, so the new bundle "
            "would not load with it; write into a run of another name (name=…), or set "
            "SIDAR_MEMORY_KEY to the key of the bundle"
        )


def carry_key(bundle: PathLike, run: PathLike) -> None:
    """Copy ``memory.key`` beside ``bundle`` into the folder ``run``, readable by its owner alone.

    Nothing happens where there is no such file, or ``run`` has one already.
    """
    source, target = Path(bundle).resolve().parent / FILE, Path(run) / FILE
    if source.is_file() and not target.exists():
        _write(target, source.read_text(encoding="utf-8"))


def _write(file: Path, secret: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(secret)


def _not_empty(text: str, where: str) -> bytes:
    if not text.strip():
        raise ValueError(
            f"{where} is empty; the memory's key must be a secret of at least one character"
        )
    return text.strip().encode()
