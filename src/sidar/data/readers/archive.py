"""Files inside of zip archives: streamed out before they are read."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ZIP = ".zip"


@dataclass(frozen=True)
class Member:
    """One file of an archive: the ``unpacked`` copy, and the ``name`` that messages give it."""

    unpacked: Path
    name: Path


def unpack(path: Path, work: Path, suffixes: Sequence[str], option: str) -> list[Member]:
    """Copy the members of a zip that end in one of ``suffixes`` into ``work``, sorted by name.

    Hidden files and what macOS adds (``__MACOSX``) are left out.  Raises ``ValueError``, which
    names ``option``, for a file that is no zip, holds no such member, or is encrypted.
    """
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            for number, member in enumerate(_wanted(archive, suffixes)):
                # a copy is named by the end of its member alone: "../" must not leave the folder
                copy = work / f"{path.stem}-{number}-{Path(member).name}"
                with archive.open(member) as packed, copy.open("wb") as plain:
                    shutil.copyfileobj(packed, plain, 1 << 20)
                found.append(Member(copy, path / member))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{option}: {path} is no zip file ({error}); download it again") from error
    except RuntimeError as error:  # zipfile's word for "a password is required"
        raise ValueError(f"{option}: {path} cannot be unpacked: {error}") from error
    if not found:
        raise ValueError(f"{option}: {path} holds no member that ends in {', '.join(suffixes)}")
    return found


def _wanted(archive: zipfile.ZipFile, suffixes: Sequence[str]) -> list[str]:
    """Return the names of an archive's members that are read."""
    names = [name for name in sorted(archive.namelist()) if name.endswith(tuple(suffixes))]
    return [name for name in names if not any(p.startswith((".", "__")) for p in Path(name).parts)]
