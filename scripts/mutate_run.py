"""Run the tests against the mutants of ``scripts/mutation.py`` and write the score.

    scripts/mutate [--list] [--only TEXT] [--shard I/N] [--budget SECONDS] [--out FILE] …

First every test file runs once with probes, to learn which test runs which function (about
twenty minutes of one core; kept in the work folder, repeated for test files that change). Then
every mutant runs in forked children that have the large libraries loaded already: the tests that
run its function, the fastest file first, until one fails. A mutant is caught where a test fails,
where it cannot be imported, and where it exceeds its time limit. The source tree is never written
to: an import hook hands the fault to the child. A run can be stopped and continued.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from scripts.mutation import MOVED, PACKAGES, ROOT, Mutant, drawn, matching, modules, with_probes
from scripts.mutations import EXPLAINED, LISTED

#: Tests of these folders, and the files beside them, may catch a mutant.
FOLDERS = (
    "align",
    "answer",
    "baselines",
    "data",
    "decode",
    "evaluate",
    "index",
    "lm",
    "pipeline",
    "train",
)
#: Tests of the documents' figures and of the import order say nothing of a fault in a function.
LEFT_OUT = ("test_docs.py", "test_docs_figures.py", "test_imports.py")
PROBE = "__mutation_probe__"
OPTIONS = [
    "-q",
    "--no-header",
    "--tb=line",
    "-p",
    "no:cacheprovider",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
]


class Loader(SourceFileLoader):
    """Compiles a module's tree after ``change`` of it; never reads or writes byte code."""

    change: Callable[[str, bytes], ast.Module]

    def get_code(self, fullname: str) -> CodeType:
        with warnings.catch_warnings():
            # "is" with a literal, say: a fault, and no reason to stop
            warnings.simplefilter("ignore")
            return compile(
                self.change(fullname, self.get_data(self.path)),
                self.path,
                "exec",
                dont_inherit=True,
            )


class Finder(MetaPathFinder):
    """Finds modules of Sidar for :class:`Loader`; only those in ``names`` where it is given."""

    def __init__(
        self, change: Callable[[str, bytes], ast.Module], names: set[str] | None = None
    ) -> None:
        self.change, self.names = change, names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.split(".")[0] != "sidar" or (
            self.names is not None and fullname not in self.names
        ):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            loader = Loader(fullname, spec.loader.path)
            loader.change = self.change
            spec.loader = loader
        return spec


def in_child(action: Callable[[], int], log: Path, seconds: float, temporary: Path) -> int | None:
    """Exit status of ``action`` in a forked child; None where it ran out of time.

    The child has its own process group, which ends with it.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.setsid()
            # Processes that a test spawns would otherwise run this script again.
            sys.modules["__main__"] = ModuleType("__main__")
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(out, stream)
            resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
            temporary.mkdir(parents=True, exist_ok=True)
            os.environ |= {
                "TMPDIR": str(temporary),
                "HYPOTHESIS_STORAGE_DIRECTORY": str(temporary / "hypothesis"),
            }
            status = int(action())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        shutil.rmtree(temporary, ignore_errors=True)


# ---------------------------------------------------------------- which test runs which function


class Watch:
    """A pytest plugin that notes the seconds of each test and the functions that it runs.

    Functions that a fixture of wider scope runs belong to every test that uses it.
    """

    def __init__(self) -> None:
        self.now: set[str] = set()
        self.loading = self.now
        self.fixtures: dict[str, tuple[set[str], float]] = {}
        self.tests: dict[str, dict[str, Any]] = {}
        self.wide = 0.0

    def probe(self, name: str) -> None:
        self.now.add(name)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            yield
            return
        before, self.now, started = self.now, set(), time.monotonic()
        yield
        took = time.monotonic() - started
        self.wide += took
        self.fixtures[fixturedef.argname] = (self.now, took)
        self.now = before

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        self.now, self.wide, started = set(), 0.0, time.monotonic()
        self.tests[item.nodeid] = {"failed": False}
        yield
        used = [name for name in item._fixtureinfo.names_closure if name in self.fixtures]
        functions = self.now.union(*(self.fixtures[name][0] for name in used))
        seconds = time.monotonic() - started - self.wide
        self.tests[item.nodeid] |= {
            "seconds": seconds,
            "fixtures": used,
            "functions": sorted(functions),
        }

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.tests[report.nodeid]["failed"] |= not report.passed


def probe_file(test_file: Path, out: Path) -> int:
    """Run one test file with probes and write what :class:`Watch` saw (in a child)."""
    watch = Watch()
    setattr(builtins, PROBE, watch.probe)
    names = {today: name for name, today in MOVED.items()}
    sys.meta_path.insert(
        0, Finder(lambda name, text: with_probes(ast.parse(text), names.get(name, name), PROBE))
    )
    for module in modules():
        if module.split(".")[1:2] and module.split(".")[1] in PACKAGES:
            importlib.import_module(MOVED.get(module, module))
    pytest.main(
        [str(test_file), *OPTIONS, f"--basetemp={os.environ['TMPDIR']}/pytest"], plugins=[watch]
    )
    loaded = [
        n for n, m in sys.modules.items() if "site-packages" in (getattr(m, "__file__", None) or "")
    ]
    fixtures = {name: seconds for name, (_, seconds) in watch.fixtures.items()}
    facts = {
        "loading": sorted(watch.loading),
        "fixtures": fixtures,
        "tests": watch.tests,
        "modules": loaded,
    }
    out.write_text(json.dumps(facts))
    return 0


def hash_of(path: Path) -> str:
    """Hash of a file's content."""
    return sha256(path.read_bytes()).hexdigest()[:16]


def preload(names: Sequence[str]) -> None:
    """Import libraries, so that children need not; whatever cannot be imported is left to them."""
    for name in names:
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)


def coverage(work: Path) -> dict[str, dict[str, Any]]:
    """{test file: what :func:`probe_file` wrote}, made where missing; loads
    libraries on the way.
    """
    files = [
        path for folder in FOLDERS for path in sorted((ROOT / "tests" / folder).glob("test_*.py"))
    ]
    files += [
        path for path in sorted((ROOT / "tests").glob("test_*.py")) if path.name not in LEFT_OUT
    ]
    named = {ROOT / test.split("::")[0] for mutant in LISTED for test in mutant.tests}
    files += sorted(named - set(files))
    (work / "map").mkdir(parents=True, exist_ok=True)
    preload(["torch", "numpy", "pyarrow.parquet", "duckdb", "transformers", "hypothesis", "pytest"])
    found = {}
    for path in files:
        kept, name = work / "map" / f"{path.stem}-{hash_of(path)}.json", str(path.relative_to(ROOT))
        if not kept.is_file():
            started = time.monotonic()
            probe = partial(probe_file, path, kept)
            status = in_child(
                probe, work / f"probe-{os.getpid()}.log", 900, work / f"tmp-{os.getpid()}"
            )
            took = time.monotonic() - started
            print(f"probed {name} in {took:.0f} s (status {status})", flush=True)
        if kept.is_file():
            found[name] = json.loads(kept.read_text())
            bad = [test for test, facts in found[name]["tests"].items() if facts["failed"]]
            if bad:
                print(f"left out, as without a mutant they do not pass: {', '.join(bad)}")
            preload(found[name]["modules"])
    return found


# ---------------------------------------------------------------- one mutant


@dataclass
class Chosen:
    """The tests of one file that run a function, the fastest first."""

    file: str
    tests: list[str]
    seconds: float


def choose(mutant: Mutant, known: dict[str, dict[str, Any]]) -> list[Chosen]:
    """Return the files with tests that run the mutant's function: the module's, then the fastest.

    Slow files of other packages come last. A listed mutant has the tests that it names.
    """
    target = f"{mutant.module}:{mutant.function}"
    chosen = []
    for file, facts in known.items():
        everything = any(_runs(name, target) for name in facts["loading"])
        named = [test for test in mutant.tests if test.split("::")[0] == file]
        good = {t: f for t, f in facts["tests"].items() if not f["failed"] and "functions" in f}
        tests = [
            t
            for t, f in good.items()
            if everything or any(_runs(name, target) for name in f["functions"])
        ]
        if named:
            tests = [test for test in good if test.split("[")[0] in named or test in named]
        if not tests or (mutant.tests and not named):
            continue
        tests.sort(key=lambda test: good[test]["seconds"])
        fixtures = {name for test in tests for name in good[test]["fixtures"]}
        seconds = sum(good[test]["seconds"] for test in tests) + sum(
            facts["fixtures"][name] for name in fixtures
        )
        chosen.append(Chosen(file, tests, seconds))
    parts = mutant.module.split(".")
    package, module = parts[1], parts[-1]
    own, beside = f"tests/{package}/test_{package}_{module}.py", f"tests/{package}/"
    chosen.sort(key=lambda some: some.seconds)
    return sorted(
        chosen,
        key=lambda some: (some.file != own, some.seconds > 5 and not some.file.startswith(beside)),
    )


def _runs(name: str, target: str) -> bool:
    return name == target or name.startswith(f"{target}.")  # of a class: any of its methods


class Verdict:
    """A pytest plugin that keeps the chosen tests, in order, and notes the first that fails."""

    def __init__(self, tests: Sequence[str], out: Path) -> None:
        self.order, self.out = {test: place for place, test in enumerate(tests)}, out

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        kept = [item for item in items if item.nodeid in self.order]
        items[:] = sorted(kept, key=lambda item: self.order[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.out.write_text(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.out.write_text(f"{report.nodeid} (cannot be imported)")


def run_tests(mutant: Mutant, some: Chosen, failed: Path) -> int:
    """Run some tests against a mutant (in a child)."""
    module = MOVED.get(mutant.module, mutant.module)
    sys.meta_path.insert(0, Finder(lambda name, text: mutant.tree(text.decode()), {module}))
    options = [*OPTIONS, "-x", f"--basetemp={os.environ['TMPDIR']}/pytest", "--hypothesis-seed=0"]
    return int(
        pytest.main([str(ROOT / some.file), *options], plugins=[Verdict(some.tests, failed)])
    )


def judge(
    mutant: Mutant, known: dict[str, dict[str, Any]], work: Path, budget: float
) -> dict[str, Any]:
    """Run a mutant's tests until one fails, unless ``work`` has a result that still holds."""
    chosen = choose(mutant, known)
    stem = sha256(f"{mutant.name}{mutant.before}{mutant.after}".encode()).hexdigest()[:16]
    kept, failed = work / "results" / f"{stem}.json", work / f"failed-{stem}"
    before = json.loads(kept.read_text()) if kept.is_file() else {"outcome": "none"}
    if is_current(before, [some.file for some in chosen], budget):
        return dict(before)
    mutant.tree()  # raises where the mutant does not fit the code any more
    result: dict[str, Any] = {
        "name": mutant.name,
        "outcome": "survived",
        "budget": budget,
        "left_out": [],
    }
    spent, started, used = 0.0, time.monotonic(), [str(mutant.file.relative_to(ROOT))]
    for some in chosen:
        if spent and spent + some.seconds > budget:
            result["left_out"].append(some.file)
            continue
        failed.unlink(missing_ok=True)
        spent += some.seconds
        limit, log = 60 + 6 * some.seconds, work / "logs" / f"{stem}.log"
        status = in_child(
            partial(run_tests, mutant, some, failed), log, limit, work / f"tmp-{stem}"
        )
        if status == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise ValueError(f"{mutant.name}: {some.file} collects none of {some.tests[:3]}")
        if status != 0:
            by = failed.read_text() if failed.is_file() else some.file
            hung = status is None and not failed.is_file()
            result |= {"outcome": "hung" if hung else "caught", "by": by, "left_out": []}
            used = [used[0], some.file]
            break
        used.append(some.file)
    failed.unlink(missing_ok=True)
    result |= {
        "seconds": round(time.monotonic() - started, 1),
        "hashes": {name: hash_of(ROOT / name) for name in used},
    }
    kept.write_text(json.dumps(result))
    return result


def is_current(result: dict[str, Any], files: Sequence[str], budget: float) -> bool:
    """Whether a kept result still holds: code and tests are unchanged, no test has come."""
    hashes = result.get("hashes", {})
    if not hashes:
        return False
    for name, kept in hashes.items():
        if not (ROOT / name).is_file() or hash_of(ROOT / name) != kept:
            return False
    left_out = result["left_out"] if budget <= result.get("budget", 0) else []
    return result["outcome"] != "survived" or set(files) <= {*hashes, *left_out}


# ---------------------------------------------------------------- all of them


def summary(
    results: Sequence[dict[str, Any]], mutants: Sequence[Mutant], seed: int
) -> dict[str, Any]:
    """Return the score as it is committed: counts, and the outcome of every mutant."""
    listed = {mutant.name for mutant in mutants if mutant.title}
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    rows = []
    for result in results:
        row = {key: result[key] for key in ("name", "outcome", "by", "left_out") if result.get(key)}
        if result["outcome"] == "survived":
            row["why"] = EXPLAINED.get(result["name"], "not explained yet")
        rows.append(row)
    parts = {
        "listed": [r for r in rows if r["name"] in listed],
        "drawn": [r for r in rows if r["name"] not in listed],
    }
    counts = {
        part: {"mutants": len(some), "caught": sum(r["outcome"] != "survived" for r in some)}
        for part, some in parts.items()
    }
    caught = sum(each["caught"] for each in counts.values())
    return {
        "commit": commit.stdout.strip(),
        "seed": seed,
        "score": round(caught / max(len(rows), 1), 4),
        **counts,
        "mutants": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="scripts/mutate", description="Run the tests against mutants of the code."
    )
    parser.add_argument(
        "--list", action="store_true", help="print the names of the mutants and stop"
    )
    parser.add_argument("--only", default="", help="only mutants whose name contains this")
    parser.add_argument("--seed", type=int, default=1, help="of the drawn mutants")
    parser.add_argument("--count", type=int, default=20, help="drawn mutants of each package")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".mutate", help="folder of maps, results and logs"
    )
    parser.add_argument(
        "--shard", default="0/1", help="I/N: every Nth mutant from the Ith, to run on several cores"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=90,
        help="seconds of tests per mutant, as measured unmutated",
    )
    parser.add_argument("--out", type=Path, help="write the score here (JSON)")
    args = parser.parse_args(arguments)
    mutants = matching([*LISTED, *drawn(args.seed, args.count)], args.only)
    shard, shards = map(int, args.shard.split("/"))
    mutants = mutants[shard::shards]
    if args.list:
        print("\n".join(mutant.name for mutant in mutants))
        return
    for mutant in mutants:
        mutant.tree()  # an edit that does not fit is an error now, not in an hour
    sys.dont_write_bytecode = True
    for name in ("results", "logs"):
        (args.work / name).mkdir(parents=True, exist_ok=True)
    known, results = coverage(args.work), []
    for number, mutant in enumerate(mutants, 1):
        results.append(judge(mutant, known, args.work, args.budget))
        result = results[-1]
        told = f"{result['outcome']:<8} {mutant.name} ({result['seconds']:g} s)"
        print(f"{number}/{len(mutants)} {told} {result.get('by', '')}", flush=True)
    found = summary(results, mutants, args.seed)
    for row in (row for row in found["mutants"] if row["outcome"] == "survived"):
        print(f"survived: {row['name']}: {row['why']}")
    print(
        f"caught {found['score']:.1%} of {len(mutants)}: {found['listed']} listed, "
        f"{found['drawn']} drawn"
    )
    if args.out:
        args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
