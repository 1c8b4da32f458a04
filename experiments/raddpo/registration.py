"""What was fixed before the first alignment run, and what day 7 chose afterwards."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sidar.artifacts import sha256_file, sha256_json

if TYPE_CHECKING:
    from sidar.simulate.config import SimulatorConfig

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "raddpo"


_file = HERE / "registration.yaml"


def use(path: Path) -> None:
    """Work under another registration: a toy one in tests. Each worker process is told."""
    global _file
    _file = Path(path)
    _read.cache_clear()


def registration_file() -> Path:
    """The file that is in force."""
    return _file


@cache
def _read() -> dict[str, Any]:
    return yaml.safe_load(_file.read_text())


def registration() -> dict[str, Any]:
    """The contents of ``registration.yaml``."""
    return _read()


def registration_hash() -> str:
    """Names the registration; a cell of another one is void."""
    return sha256_json(registration())


def simulator_config() -> SimulatorConfig:
    """The registered preset (a toy registration also changes its sizes)."""
    from sidar import simulate

    said = registration()["simulator"]
    return simulate.load_config(said["preset"], **said.get("changes", {}))


def simulator_hashes() -> dict[str, str]:
    """Hashes of the simulator's settings and words as they are in this checkout."""
    from sidar.simulate import lexicon

    words = Path(lexicon.__file__).with_name("lexicon.yaml")
    return {"hash": simulator_config().hash, "lexicon": sha256_file(words)}


def check_frozen() -> None:
    """Raise ``ValueError`` where the simulator is no longer the registered one."""
    wanted = {name: registration()["simulator"][name] for name in ("hash", "lexicon")}
    found = simulator_hashes()
    if changed := [name for name in wanted if wanted[name] != found[name]]:
        raise ValueError(
            f"the simulator's {' and '.join(changed)} differ from registration.yaml, so no cell of "
            "the evidence may be run: restore simulator.yaml and lexicon.yaml, or register anew "
            "(all earlier numbers are void then)"
        )


def tuned_file() -> Path:
    """Where day 7's choices stand: beside the registration."""
    return _file.with_name("tuned.yaml")


def tuned() -> dict[str, dict[str, float]]:
    """``align`` settings of each method as chosen on day 7; empty before ``tune`` has been run.

    Raises ``ValueError`` where they were chosen under another registration.
    """
    if not tuned_file().is_file():
        return {}
    content = yaml.safe_load(tuned_file().read_text())
    if content["registration"] != registration_hash():
        raise ValueError(
            f"{tuned_file().name} belongs to another registration; run `python -m "
            "experiments.raddpo tune`"
        )
    return content["chosen"]


def tuned_settings(system: str) -> dict[str, float]:
    """The choice for a row: its own, or that of the row which it varies; ``{}`` for rows that are
    not aligned.
    """
    chosen = tuned()
    if system in chosen:
        return chosen[system]
    for name, source in registration()["tuning"]["inherits"].items():
        if system == name or (name.endswith("*") and system.startswith(name[:-1])):
            return chosen.get(source, {})
    return {}
