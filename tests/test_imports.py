"""Who may import what (one direction), read from the syntax tree, so lazy imports count too."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sidar

ROOT = Path(sidar.__file__).parent
BASE = {"types", "artifacts", "config", "extensions", "precision", "restore", "version", "__init__"}
# part -> what it may import besides BASE and itself; parts that are absent here may import
# anything.
MAY = {
    "types": set(),
    "artifacts": set(),
    "config": set(),
    "extensions": set(),
    "precision": set(),
    "restore": set(),
    "version": set(),
    "data": set(),
    "embed": {"data"},
    "filters": set(),
    "fitting": set(),
    "sid": {"data", "embed", "fitting"},
    "index": {"data", "sid"},
    "pages": set(),
    "ab": {"data", "evaluate", "pages"},
    "evaluate": {"data", "index", "baselines", "pages"},
    "baselines": {"data", "embed"},
    "simulate": {"data", "baselines", "embed"},
    "lm": {"index", "decode"},
    "align": {"lm"},
    "answer": {"data", "baselines"},
    "decode": {"index"},
    # the ranker's features are made of what channels, memory and item vectors say, and how much of
    # it is taken is chosen by the interval of a lead (evaluate.stats)
    "ranker": {"data", "baselines", "answer", "embed", "index", "fitting", "evaluate"},
    # the reward `ranker` scores items with the ranker that a run has fitted
    "rewards": {"data", "index", "ranker", "answer", "baselines", "embed"},
    "train": {
        *("fitting", "data", "sid", "index", "lm", "align", "decode", "embed", "evaluate"),
        "rewards",
    },
    # ab: the service draws the buckets that `sidar ab` checks
    "serve": {
        *("ab", "answer", "baselines", "data", "decode", "embed", "filters", "index", "lm"),
        *("ranker", "sid"),
    },
    # a client reads and writes the values of the wire
    "client": {"serve"},
    "doctor": {"embed"},
}
# Nothing below imports these.
TOP = {"__main__", "cli", "client", "compare", "serve", "pipeline"}


def part_of(file):
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def module_name(file):
    return ".".join(["sidar", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(
        ".__init__"
    )


def is_module(name):
    """Whether ``sidar.x.y`` is a file or a package, and not a name inside one."""
    path = ROOT.joinpath(*name.split(".")[1:])
    return name.startswith("sidar.") and (path.is_dir() or path.with_suffix(".py").is_file())


def imported_modules(file):
    """(line, module of sidar) of everything that ``file`` imports anywhere, type-checking blocks
    left out.
    """
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import; write the full path"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else node.module for name in inner]
        else:
            continue
        for name in names:
            yield node.lineno, name


def imported_parts(file):
    """(line, part of sidar) of everything that ``file`` imports."""
    for line, name in imported_modules(file):
        head, *rest = name.split(".")
        if (
            head == "sidar"
            and rest
            and ((ROOT / rest[0]).is_dir() or (ROOT / f"{rest[0]}.py").is_file())
        ):
            yield line, rest[0]


def test_no_module_imports_itself_through_others():
    """Imports inside functions count: a circle that is hidden there is a circle all the same."""
    files = {module_name(file): file for file in ROOT.rglob("*.py")}
    graph = {}
    for name, file in files.items():
        graph[name] = {
            module for _, module in imported_modules(file) if module in files and module != name
        }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_the_rules_name_parts_that_are_there():
    parts = {part_of(file) for file in ROOT.rglob("*.py")}
    assert not (BASE | TOP | MAY.keys() | set().union(*MAY.values())) - parts


@pytest.mark.parametrize("part", sorted({part_of(f) for f in ROOT.rglob("*.py")} - {"__init__"}))
def test_who_may_import_what(part):
    for file in [f for f in ROOT.rglob("*.py") if part_of(f) == part]:
        for line, other in imported_parts(file):
            where = f"{file.relative_to(ROOT)}:{line} imports {other}"
            if part in MAY:
                assert other in MAY[part] | BASE | {part}, (
                    f"{where}; {part} may import only {sorted(MAY[part])}"
                )
            assert other not in TOP - {part} or part in TOP, f"{where}, which belongs to the top"


@pytest.mark.parametrize(
    "module",
    [
        "sidar",
        "sidar.config",
        "sidar.types",
        "sidar.artifacts",
        "sidar.data",
        "sidar.cli",
        "sidar.client",
        "sidar.client.langchain",
        "sidar.doctor",
        "sidar.serve",
        "sidar.serve.request",
    ],
)
def test_importing_loads_no_torch(module):
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'transformers', 'faiss') if m in "
        "sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
