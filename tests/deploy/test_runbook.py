"""The runbook's commands, as they stand on the page, in an empty folder with two tiny bundles."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from shop import write_bundle, write_stages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/runbook.md").read_text()
BLOCK = re.compile(r"^```(console|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
HASH = re.compile(r"\b[0-9a-f]{64}\b")
#: What a shopper does, after the page's first search.
SHOPPER = (
    "curl -s $at/v1/search -H 'content-type: application/json' "
    '-d \'{"query": "towel", "k": 3, "user_id": "u7"}\''
)
MARK = "@@@"


def commands():
    """The page's commands in order; the config is written where it stands."""
    for kind, text in BLOCK.findall(PAGE):
        if kind == "yaml":
            config = HASH.sub("$(sha256sum < admin.key | cut -d' ' -f1)", text)
            yield f"cat > sidar.yaml <<END\n{config}END"
            continue
        for line in text.splitlines():
            assert line.startswith("$ "), line
            yield line[2:]
            if "/v1/search" in line:
                yield SHOPPER


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """{command: what it wrote}, every one with exit code 0."""
    assert shutil.which("curl"), "curl is not installed"
    assert shutil.which("openssl"), "openssl is not installed"
    folder = tmp_path_factory.mktemp("operator")
    run = folder / "demo" / "runs" / "demo"
    run.mkdir(parents=True)
    for n, name in enumerate(("bundle", "bundle-sft")):
        stages = write_stages(tmp_path_factory.mktemp(name), seed=n)
        shutil.copytree(write_bundle(stages), run / name)
    (run / "memory.key").write_text("of a memory that these bundles do not have")
    asked = list(commands())
    lines = ["trap 'kill $pid' EXIT"]  # whatever happens, no server is left
    for number, command in enumerate(asked):
        lines += [command, f'echo "{MARK} $? {number}"']
    lines += ["trap - EXIT", "kill -TERM $pid", "wait $pid"]
    # another port than the page's, which may be taken here
    script = "\n".join(lines).replace("127.0.0.1:8000", f"127.0.0.1:{(port := free_port())}")
    script = script.replace("  store: serve.db", f"  port: {port}\n  store: serve.db")
    script = script.replace("sidar bench-serve", f"sidar bench-serve --url http://127.0.0.1:{port}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    parts = re.split(rf"{MARK} (\d+) \d+\n", done.stdout)
    texts, codes = parts[0::2], parts[1::2]
    # a shell says 143 of a process that ended on SIGTERM
    wrong = [
        (command, code, text)
        for command, code, text in zip(asked, codes, texts, strict=False)
        if code not in ({"0", "143"} if command.startswith("kill") else {"0"})
    ]
    assert (wrong, len(codes)) == ([], len(asked)), done.stderr[-3000:]
    assert f"{MARK}" not in "".join(texts)
    return [*zip(asked, texts, strict=False)], done.stderr


def answer(outputs, part, place=0):
    """The JSON that the command with ``part`` in it wrote."""
    return json.loads([text for command, text in outputs[0] if part in command][place])


def test_a_bundle_is_loaded_activated_and_taken_back(outputs):
    listed = answer(outputs, "curl -s $at/v1/bundles -H")
    assert {one["name"]: one["state"] for one in listed["bundles"]} == {
        **dict.fromkeys("abc", "known"),
        "current": "active",
    }
    assert answer(outputs, "/b/load")["active"] == "current"
    assert answer(outputs, "/b/activate")["active"] == "b"
    back = answer(outputs, "/rollback")
    assert (back["active"], back["previous"]) == ("current", "b")


def test_a_snapshot_brings_back_what_was_kept_until_it_is_erased(outputs):
    shown = answer(outputs, '"user_id": "u7"')["returned"]
    assert shown == answer(outputs, '-d \'{"query": "towel", "k": 3}\'')["returned"] == 3
    # the answer was given before the snapshot, and the user is erased after it was brought back
    assert answer(outputs, "/v1/users/u7")["rows"] == shown


def test_load_is_measured_and_the_log_is_lines_of_json(outputs):
    (table,) = [text for command, text in outputs[0] if "bench-serve" in command]
    assert "p50, p95, p99" in table
    assert "refused (503)" in table
    lines = [json.loads(line) for line in outputs[1].splitlines() if line.startswith("{")]
    routes = {line["route"] for line in lines if line["message"] == "request"}
    assert {"/v1/search", "/v1/bundles/rollback", "/v1/users/{user_id}"} <= routes
    assert "u7" not in outputs[1]
    assert "Traceback" not in outputs[1]
