"""sidar doctor: the words it finds for machines that the tests do not run on, and the one that they
do.
"""

import io
import json
import re
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from sidar import doctor
from sidar.doctor import Check, TorchFacts, diagnose, judge_torch, render, to_json


def test_cpu_build_on_a_gpu_machine_is_said_in_words_with_the_command():
    check = judge_torch(TorchFacts("2.13.0+cpu", None, False, ("NVIDIA H200",)))
    assert check.status == "warn"
    assert "CPU build on a GPU machine" in check.says
    assert "NVIDIA H200" in check.says
    assert "pip install --force-reinstall torch==2.13.0" in check.advice


@pytest.mark.parametrize(
    ("facts", "status", "word"),
    [
        (TorchFacts("2.13.0+cpu", None, False, ()), "ok", "CPU only"),
        (TorchFacts("2.13.0", "13.0", True, ("NVIDIA H200",)), "ok", "13.0"),
        (TorchFacts("2.13.0", "13.0", False, ("NVIDIA H200",)), "warn", "driver"),
        (
            TorchFacts("2.13.0", "13.0", False, ("NVIDIA H200",), visible_devices=""),
            "note",
            "CUDA_VISIBLE_DEVICES",
        ),
    ],
)
def test_torch_against_the_gpus(facts, status, word):
    check = judge_torch(facts)
    assert check.status == status
    assert word in check.says


def test_system_gpus_asks_nvidia_smi(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA RTX 4090'\necho 'NVIDIA RTX 4090'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor.system_gpus() == ("NVIDIA RTX 4090", "NVIDIA RTX 4090")


def test_this_machine(tmp_path):
    checks = diagnose(tmp_path)
    names = [check.name for check in checks]
    assert names == [
        "python",
        "packages",
        "torch",
        "devices",
        "threads",
        "bf16",
        "memory",
        "disk",
        "minilm",
    ]
    assert [check for check in checks if check.status == "fail"] == []
    read_back = json.loads(to_json(checks))
    assert read_back["ok"] is True
    assert read_back["checks"][names.index("packages")]["data"]["versions"]["torch"]
    out = io.StringIO()
    Console(file=out, width=100).print(render(checks))
    assert all(name in out.getvalue() for name in names)


def test_a_failed_check_makes_the_report_not_ok_and_markup_is_shown_as_it_is():
    checks = [Check("packages", "fail", "missing: [bold]x[/bold]", "install [it]")]
    assert json.loads(to_json(checks))["ok"] is False
    out = io.StringIO()
    Console(file=out, width=100).print(render(checks))
    assert "[bold]x[/bold]" in out.getvalue()
    assert "→ install [it]" in out.getvalue()


def test_the_packages_are_the_projects_dependencies():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())[
        "project"
    ]
    assert {re.split(r"[><=~]", name)[0] for name in project["dependencies"]} == set(
        doctor.PACKAGES
    )
