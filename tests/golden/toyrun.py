"""What the toy run leaves, and what the command line and the service make of it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from golden import entry
from golden.answers import retriever_of
from golden.kept import BAD, FIXTURES, GOOD, HTTP, USAGE
from golden.observe import call

Json = dict[str, Any]


def describe(path: Path) -> Any:
    """Return the structure of a file: columns and types, keys, or shapes; None for other files."""
    if path.name == "tokenizer.json" and path.parent.name != "sid":
        return None  # a text tokenizer: its keys are its vocabulary
    kind = path.suffix
    if kind == ".parquet":
        schema = pq.read_schema(path)
        meta = sorted(key.decode() for key in schema.metadata or {} if not key.startswith(b"ARROW"))
        return {"columns": {field.name: str(field.type) for field in schema}, "metadata": meta}
    if kind == ".arrow":
        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.open_file(source).schema
        return {
            "columns": {field.name: str(field.type) for field in schema},
            "metadata": sorted(key.decode() for key in schema.metadata or {}),
        }
    if kind == ".npy":
        array = np.load(path, mmap_mode="r")
        return {"dtype": str(array.dtype), "dimensions": array.ndim}
    if kind == ".safetensors":
        from safetensors import safe_open

        with safe_open(str(path), "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
            return {
                name: f"{one.get_dtype()} {len(one.get_shape())}"
                for name, one in sorted(slices.items())
            }
    if kind == ".json":
        return structure(json.loads(path.read_text()))
    if kind == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return {"keys": sorted({key for line in lines for key in line})}
    if kind in (".tsv", ".trec"):
        return {"fields": len(path.read_text().splitlines()[0].split())}
    return None


def structure(value: Any) -> Any:
    """Return keys and types of a JSON value; ``*`` stands for every key where all are alike."""
    if isinstance(value, dict):
        inner = {
            _TIMED.sub("events.out.tfevents", key): structure(one)
            for key, one in sorted(value.items())
        }
        first = next(iter(inner.values()), None)
        alike = (
            len(inner) > 1
            and isinstance(first, (dict, list))
            and all(one == first for one in inner.values())
        )
        return {"keys": sorted(inner), "*": first} if alike else inner
    if isinstance(value, list):
        kinds = [structure(one) for one in value]
        if kinds and all(isinstance(kind, dict) for kind in kinds):
            return [{"keys": sorted({key for kind in kinds for key in kind})}]
        return [sorted({str(kind) for kind in kinds})]
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, (int, float)) else "text"


#: File names that hold a time, a host and a process.
_TIMED = re.compile(r"events\.out\.tfevents\S*")


def files(folder: Path) -> dict[str, Any]:
    """Return ``{relative path: structure}`` of all files of an artefact."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = _TIMED.sub("events.out.tfevents", str(path.relative_to(folder)))
        found[name] = describe(path)
    return found


def copy_inputs(folder: Path) -> Path:
    """Copy the kept inputs and the memory's key into ``folder``; return the path of the config."""
    (folder / "runs" / "shop").mkdir(parents=True, exist_ok=True)
    for path in (FIXTURES / "inputs").iterdir():
        shutil.copy(path, folder / path.name)
    shutil.copytree(FIXTURES / "backbone", folder / "backbone", dirs_exist_ok=True)
    shutil.copy(FIXTURES / "memory.key", folder / "runs" / "shop" / "memory.key")
    return folder / "sidar.yaml"


STAGES = ("data", "embed", "sid", "sft", "align-raddpo", "index", "answer", "bundle", "evaluate")


def run_toy(folder: Path) -> Path:
    """Run every stage on the kept inputs in ``folder``; return the run's folder."""
    config = copy_inputs(folder)
    code, _, error = call("run", "-c", config)
    assert code == 0, error
    return folder / "runs" / "shop"


def run_structure(run: Path) -> dict[str, Any]:
    """Return ``{stage: {file: structure}}`` of a toy run."""
    return {stage: files(run / stage) for stage in STAGES}


def run_figures(run: Path) -> dict[str, Any]:
    """Return the means of all measures and rows, the training logs, and facts of data and SIDs."""
    scores = json.loads((run / "evaluate" / "scores.json").read_text())
    rows = {
        f"{name} | {system}": {measure: value["mean"] for measure, value in measured.items()}
        for name, one in scores["sets"].items()
        for system, measured in one["systems"].items()
    }
    logs = {}
    for stage in ("sft", "align-raddpo"):
        lines = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
        kept = {
            key
            for line in lines
            for key in line
            if not key.startswith(("tokens_per", "seconds", "time", "memory"))
        }
        logs[stage] = {key: [line.get(key) for line in lines] for key in sorted(kept)}
    report = (run / "data" / "report.json").read_text()
    quality = json.loads((run / "sid" / "quality.json").read_text())
    return {
        "rows": rows,
        "logs": logs,
        "data": json.loads(report.replace(str(run.parents[1]), "…")),
        "sid": {key: value for key, value in quality.items() if isinstance(value, (int, float))},
        "answer": json.loads((run / "answer" / "answer.json").read_text())["fit"],
    }


def places(run: Path, out: Path) -> dict[str, str]:
    """Return what the placeholders of the kept command lines stand for."""
    inputs = run.parents[1]
    found = {
        "yaml": inputs / "sidar.yaml",
        "run": run,
        "bundle": run / "bundle",
        "inputs": inputs,
        "out": out,
    }
    return {name: str(path) for name, path in found.items()}


def _words(line: str, named: dict[str, str]) -> list[str]:
    """Return the arguments of a kept command line, its placeholders filled in."""
    return [word.format(**named) for word in shlex.split(line)]


def good_commands(run: Path, out: Path) -> dict[str, Json]:
    """Run the commands that succeed; return exit codes and structures of output and files."""
    named, found = places(run, out), {}
    key = out / "memory.key"  # beside the bundles that the commands write
    shutil.copy(FIXTURES / "memory.key", key)
    catalogue = pq.read_table(FIXTURES / "inputs" / "catalogue.parquet")
    pq.write_table(catalogue.slice(0, 60), out / "fewer.parquet")
    before = {key, out / "fewer.parquet"}
    for name, line in GOOD.items():
        code, text, _ = call(*_words(line, named))
        written = {path for path in out.rglob("*") if path.is_file() and ".work" not in path.parts}
        new = {str(path.relative_to(out)): describe(path) for path in sorted(written - before)}
        before |= written
        json_text = text.lstrip().startswith(("{", "[")) and not line.startswith("init")
        found[name] = {
            "code": code,
            "json": structure(json.loads(text)) if json_text else None,
            "files": new,
        }
    return found


def bad_commands(run: Path, out: Path) -> dict[str, Json]:
    """Run the commands that fail; return exit codes and which words their error lacks."""
    named, found = places(run, out), {}
    for name, (line, fragments) in BAD.items():
        code, _, error = call(*_words(line, named))
        lines = [text for text in error.splitlines() if text.startswith("sidar: ")]
        wanted = [fragment.format(**named) for fragment in fragments]
        found[name] = {
            "code": code,
            "lines": len(lines),
            "missing": [w for w in wanted if w not in "".join(lines)],
        }
    for name, line in USAGE.items():
        found[name] = {"code": call(*shlex.split(line))[0]}
    return found


def http_answers() -> dict[str, Any]:
    """Return status, structure and items of what the service answers over the kept bundles."""
    from fastapi.testclient import TestClient

    models = {"first": retriever_of("bundle"), "second": retriever_of("bundle-varied")}
    found: dict[str, Any] = {}
    with TestClient(entry.create_app(models)) as client:
        found["paths"] = sorted(client.get("/openapi.json").json()["paths"])
        for path in ("/livez", "/readyz", "/v1/info", "/"):
            answer = client.get(path)
            body = structure(answer.json()) if "json" in answer.headers["content-type"] else None
            found[path] = {"status": answer.status_code, "body": body}
        for name, request in HTTP.items():
            answer = client.post("/v1/search", json=request)
            body = answer.json()
            found[name] = {"status": answer.status_code, "body": structure(body)}
            if "hits" in body:
                found[name]["items"] = [hit["item_id"] for hit in body["hits"]]
    return found
