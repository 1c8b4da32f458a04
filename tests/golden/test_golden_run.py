"""The toy run through the command line: what it leaves, its figures, and what the other commands
make of it.

Files, columns and keys are compared exactly.  Figures that no training stands behind (rows of word
and vector search, facts of the log and of the SIDs' table) are compared within 1e-4 on every
machine; those of trained models so on a machine like the recording's only, because a rounding apart
in step 1 is another model in step 60.
"""

import pytest
from golden import toyrun
from golden.compare import FIGURE, as_json, check_numbers, differences, here, recorded
from golden.kept import BAD, GOOD, PORTABLE, USAGE


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toyrun.run_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def figures(run):
    return as_json(toyrun.run_figures(run))


@pytest.mark.parametrize("stage", toyrun.STAGES)
def test_a_stage_leaves_the_same_files_columns_and_keys(stage, run):
    now = as_json(toyrun.files(run / stage))
    assert differences(now, recorded("run_structure")[stage]) == []


def test_figures_without_training(figures):
    before = recorded("run_figures")
    assert set(figures["rows"]) == set(before["rows"])
    portable = [row for row in before["rows"] if row.split(" | ")[1] in PORTABLE]
    assert len(portable) == 2 * len(PORTABLE)
    for row in portable:
        check_numbers(figures["rows"][row], before["rows"][row], row, atol=FIGURE)
    check_numbers(figures["data"], before["data"], "data", atol=FIGURE)


def test_figures_of_trained_models(figures):
    before = recorded("run_figures")
    for row, measures in before["rows"].items():
        assert set(figures["rows"][row]) == set(measures), row
    for stage, log in before["logs"].items():
        assert set(figures["logs"][stage]) == set(log), stage
    if here():
        check_numbers(figures, before, "figures", atol=FIGURE, rtol=FIGURE)


def test_commands_succeed_as_they_did(run, tmp_path):
    now = as_json(toyrun.good_commands(run, tmp_path))
    assert set(now) == set(GOOD)
    assert {name: one["code"] for name, one in now.items()} == dict.fromkeys(GOOD, 0)
    assert differences(now, recorded("good_commands")) == []


def test_bad_input_ends_with_code_2_and_one_line(run, tmp_path):
    now = toyrun.bad_commands(run, tmp_path)
    good = {name: {"code": 2, "lines": 1, "missing": []} for name in BAD}
    assert now == good | {name: {"code": 2} for name in USAGE}
