"""What reads and writes files without a chance to run what stands in them."""

from __future__ import annotations

import ast
from pathlib import Path

#: Modules whose files may hold code.
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
#: Endings of a bundle's files; all are data and nothing else.
SAFE = {".json", ".safetensors", ".arrow", ".parquet", ".npy", ".sha256", ".txt", ".md"}


def unsafe(file: Path) -> list[str]:
    """Return the places of a source file that could run what a data file says."""
    tree = ast.parse(file.read_text())
    # a loader of its own is safe where it is made of a safe one
    loaders = {"SafeLoader", "CSafeLoader"} | {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "SafeLoader" in map(_last, node.bases)
    }
    return [
        f"{file}:{getattr(node, 'lineno', 0)}: {why}"
        for node in ast.walk(tree)
        if (why := _why(node, loaders))
    ]


def _last(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _why(node: ast.AST, loaders: set[str]) -> str:
    if isinstance(node, ast.Import):
        names = [alias.name.split(".")[0] for alias in node.names]
        return next((f"imports {name}" for name in names if name in MODULES), "")
    if isinstance(node, ast.ImportFrom):
        name = (node.module or "").split(".")[0]
        return f"imports {name}" if name in MODULES else ""
    if isinstance(node, ast.Call):
        return _why_call(node, loaders)
    return ""


def _why_call(node: ast.Call, loaders: set[str]) -> str:
    called = ast.unparse(node.func)
    given = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
    if called in ("eval", "exec"):
        return called
    if given.get("allow_pickle", "False") != "False":
        return "allow_pickle"
    if called == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if called == "torch.save":
        return "torch.save, whose files are pickles"
    if called.startswith("yaml.") and called.split(".")[1] in ("load", "load_all", "unsafe_load"):
        loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "")
        return "" if loader.rpartition(".")[2] in loaders else called
    return ""
