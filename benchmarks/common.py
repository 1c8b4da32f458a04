"""What every benchmark shares: how time and memory are taken, and what a results file says.

Speed is process CPU time on one thread, medians of variants interleaved in one process, so that a
neighbour's load or a warming clock hits all variants alike.  Memory is taken in a fresh process per
variant: peak RSS of the step minus RSS before it.  ``results/<name>.json`` carries config, commit,
versions, threads, device and a flat map ``figures``; every figure in prose names the file that it
came from.

A benchmark begins with ``from common import …`` (run it as ``python benchmarks/<name>.py``) and
calls :func:`single_thread` before anything else imports a numerical library.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "torch",
    "transformers",
    "numpy",
    "faiss-cpu",
    "trl",
    "safetensors",
    "sentence-transformers",
)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def single_thread() -> None:
    """One thread in every library, this process and its children; call before importing numpy or
    torch.
    """
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@contextmanager
def process_cpu_timer() -> Iterator[list[float]]:
    """``with process_cpu_timer() as t: …`` leaves the CPU seconds of this process (all its threads)
    in ``t[0]``.
    """
    seconds = [0.0]
    start = time.process_time()
    try:
        yield seconds
    finally:
        seconds[0] = time.process_time() - start


def interleave(
    variants: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1
) -> dict[str, float]:
    """Median process CPU seconds of each variant, run in turn (a b c, a b c, …) after ``warmup``
    uncounted turns.
    """
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warmup + repeats):
        for name, run in variants.items():
            with process_cpu_timer() as seconds:
                run()
            if turn >= warmup:
                taken[name].append(seconds[0])
    return {name: statistics.median(times) for name, times in taken.items()}


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; memory is measured on Linux only")


def peak_rss_of(step: Callable[[], Any]) -> int:
    """Bytes by which this process's peak resident memory during ``step`` exceeds what it held
    before.

    The kernel's own high-water mark, reset just before the step, so that no short peak is missed.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
    before = _status_bytes("VmRSS")
    step()
    return _status_bytes("VmHWM") - before


def peak_rss_in_fresh_process(script: str | Path, function: str, *args: Any) -> int:
    """Bytes of :func:`peak_rss_of` for one variant, in a new interpreter.

    ``function`` is the name of a function of the module ``script`` (usually ``__file__``): called
    with the JSON-able ``args`` it prepares everything and returns the step to be measured.
    """
    return cost_in_fresh_process(script, function, *args)[0]


def cost_in_fresh_process(script: str | Path, function: str, *args: Any) -> tuple[int, float]:
    """As :func:`peak_rss_in_fresh_process`, and the CPU seconds of the measured step."""
    program = (
        "import json, runpy, sys, time; sys.path.insert(0, sys.argv[1]); import common; "
        "common.single_thread(); space = runpy.run_path(sys.argv[2], run_name='measured'); step = "
        "space[sys.argv[3]](*json.loads(sys.argv[4])); start = time.process_time(); peak = "
        "common.peak_rss_of(step); print('COST', peak, time.process_time() - start)"
    )
    command = [
        sys.executable,
        "-c",
        program,
        str(Path(__file__).parent),
        str(script),
        function,
        json.dumps(args),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{function}{args} failed in its own process:\n{done.stderr}")
    peak, seconds = done.stdout.split("COST")[-1].split()
    return int(peak), float(seconds)


def versions() -> dict[str, str]:
    """Python and the numerical packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit, with ``+changes`` when the source that was measured
    differs from it.
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True
        ).stdout.strip()

    head = git("rev-parse", "HEAD")
    if not head:
        return "unknown"
    sources = ("src", "benchmarks/*.py", "experiments/*.py")
    return head + ("+changes" if git("status", "--porcelain", "--", *sources) else "")


def device() -> dict[str, Any]:
    """The processor (or CUDA device, where torch is loaded and uses one) and what of it matters for
    bf16.
    """
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.split(":", 1) for line in info if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(named.get("flags", "").split())
    about: dict[str, Any] = {
        "cpu": named.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        about["cuda"] = torch.cuda.get_device_name(0)
    return about


def write_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Put ``text`` between the two ``marks`` of ``page``, in the place of what stands there."""
    before, rest = page.read_text(encoding="utf-8").split(marks[0])
    page.write_text(before + marks[0] + text + marks[1] + rest.split(marks[1])[1], encoding="utf-8")


def write_results(
    name: str,
    config: Mapping[str, Any],
    figures: Mapping[str, float],
    *,
    threads: int = 1,
    folder: Path = RESULTS,
    **more: Any,
) -> Path:
    """Write ``<name>.json`` into ``folder`` and return its path.

    ``more`` holds further JSON-able sections (tables, notes).
    """
    for key, value in figures.items():
        if not isinstance(value, (int, float)):
            raise TypeError(f"figures[{key!r}] must be a number, got {value!r}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {
        "name": name,
        "config": dict(config),
        "figures": {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in figures.items()
        },
        "commit": commit(),
        "versions": versions(),
        "threads": threads,
        "device": device(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **more,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """A plain aligned table: text left, numbers right with four significant digits."""

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    text = [[cell(v) for v in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *text]) for i in range(len(header))]
    numeric = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)
        ]
        return "  ".join(aligned).rstrip()

    if title:
        print(title)
    print(line(list(header)))
    print("  ".join("-" * w for w in widths))
    for row in text:
        print(line(row))
