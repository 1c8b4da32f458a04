"""``scripts/mutate``: operators on a toy module, names that survive a move, edits, the score."""

import ast
import json

import pytest

from scripts import mutation
from scripts.mutate_run import choose, in_child, summary
from scripts.mutation import ROOT, Mutant, drawn, functions, sites, with_probes
from scripts.mutations import EXPLAINED, LISTED

TOY = '''
import time

LIMIT = 3


def first(rows: list[int] = (1, 2), *, low: int = 0) -> int:
    """Not a number: 1 < 2."""
    assert low < 5, "low"
    if not rows and low == 0:
        raise ValueError(f"no rows, {low + 1}")
    started = time.monotonic() + 1
    print(len(rows) + 1)
    for row in sorted(rows[:low], key=abs):
        if row > 0:
            continue
    return max(rows, default=True), low - 1


class Shelf:
    def add(self, left, right):
        self.total = join(left, right)

        def inner():
            return [x for x in left if x]

        return inner
'''


def mutants(function):
    node = dict(functions(ast.parse(TOY)))[function]
    return [operator for operator, _, _ in sites(node)]


def mutated(function, operator):
    return ast.unparse(Mutant("toy", function, operator).tree(TOY))


def test_operators_of_a_toy_function():
    assert mutants("first") == [
        "boolean 1",
        "condition 1",
        "condition 2",
        "negation 1",
        "compare 1",
        "constant 1",
        "sorted 1",
        "slice 1",
        "keyword 1",
        "compare 2",
        "condition 3",
        "condition 4",
        "constant 2",
        "statement 1",
        "return 1",
        "extreme 1",
        "keyword 2",
        "constant 3",
        "arithmetic 1",
        "constant 4",
    ]


@pytest.mark.parametrize(
    ("function", "operator", "after"),
    [
        ("first", "boolean 1", "if not rows or low == 0:"),
        ("first", "negation 1", "if rows and low == 0:"),
        ("first", "compare 1", "if not rows and low != 0:"),
        ("first", "compare 2", "if row >= 0:"),
        ("first", "condition 2", "if False:"),
        ("first", "constant 1", "if not rows and low == 1:"),
        ("first", "slice 1", "for row in sorted(rows[:low + 1], key=abs):"),
        ("first", "sorted 1", "for row in sorted(rows[:low], key=abs, reverse=True):"),
        ("first", "keyword 1", "for row in sorted(rows[:low]):"),
        ("first", "statement 1", "            pass"),
        ("first", "return 1", "return (low - 1, max(rows, default=True))"),
        ("first", "extreme 1", "return (min(rows, default=True), low - 1)"),
        ("first", "constant 3", "return (max(rows, default=False), low - 1)"),
        ("first", "arithmetic 1", "return (max(rows, default=True), low + 1)"),
        ("Shelf.add", "swap 1", "self.total = join(right, left)"),
        ("Shelf.add", "statement 1", "        pass"),
        ("Shelf.add.<locals>.inner", "filter 1", "return [x for x in left]"),
    ],
)
def test_a_mutant_changes_one_line(function, operator, after):
    before, now = (
        set(text.splitlines())
        for text in (ast.unparse(ast.parse(TOY)), mutated(function, operator))
    )
    assert [line.strip() for line in now - before] in (
        [after.strip()],
        [],
    )  # [] where the line occurs already
    assert len(before - now) <= 1
    assert after.strip() in mutated(function, operator)


def test_words_types_and_clocks_are_left_alone():
    for operator in mutants("first"):
        text = mutated("first", operator)
        for line in (
            '"""Not a number: 1 < 2."""',
            "assert low < 5, 'low'",
            "started = time.monotonic() + 1",
        ):
            assert line in text
        assert "raise ValueError(f'no rows, {low + 1}')" in text
        assert "def first(rows: list[int]=(1, 2), *, low: int=0) -> int:" in text


def test_a_name_holds_no_line():
    """Code above and beside a function changes neither its mutants' names nor what they do."""
    moved = TOY.replace("LIMIT = 3", "LIMIT = 3\n\n\ndef before(x):\n    return x + 1\n\n")
    names = [operator for operator, _, _ in sites(dict(functions(ast.parse(moved)))["first"])]
    assert names == mutants("first")
    mutant = Mutant("toy", "first", "arithmetic 1")
    assert "low + 1)" in ast.unparse(mutant.tree(moved))
    assert mutant.name == "toy:first arithmetic 1"


def test_a_moved_module_keeps_its_mutants(monkeypatch, tmp_path):
    (tmp_path / "sidar" / "align").mkdir(parents=True)
    (tmp_path / "sidar" / "align" / "old.py").write_text(TOY)
    monkeypatch.setattr(mutation, "SOURCE", tmp_path)
    before = [mutant.name for mutant in drawn(1, 8)]
    assert len(before) == 8
    assert all(name.startswith("sidar.align.old:") for name in before)
    (tmp_path / "sidar" / "loss").mkdir()
    (tmp_path / "sidar" / "align" / "old.py").rename(tmp_path / "sidar" / "loss" / "new.py")
    monkeypatch.setitem(mutation.MOVED, "sidar.align.old", "sidar.loss.new")
    assert [mutant.name for mutant in drawn(1, 8)] == before
    assert drawn(1, 1)[0].file == tmp_path / "sidar" / "loss" / "new.py"
    drawn(1, 1)[0].tree()


def test_a_draw_of_more_contains_the_draw_of_fewer(monkeypatch):
    monkeypatch.setattr(mutation, "PACKAGES", ("align", "answer"))
    few, many = ([mutant.name for mutant in drawn(1, count)] for count in (5, 6))
    assert len(few) == 10 == len(set(few))
    assert set(few) < set(many)


def test_an_edit_that_does_not_fit_is_an_error():
    def edit(before, after="pass", function="first"):
        return Mutant("toy", function, title="an edit", before=before, after=after)

    assert "rows[:0]" in ast.unparse(edit("rows[:low]", "rows[:0]").tree(TOY))
    with pytest.raises(ValueError, match="stands 0 times in toy:first"):
        edit("rows[:high]").tree(TOY)
    with pytest.raises(ValueError, match="stands 7 times"):
        edit("low").tree(TOY)
    with pytest.raises(ValueError, match="stands 0 times"):
        edit("LIMIT = 3").tree(TOY)  # outside of the function
    with pytest.raises(ValueError, match="toy has no last"):
        edit("low", function="last").tree(TOY)
    with pytest.raises(ValueError, match="no such site any more"):
        Mutant("toy", "first", "arithmetic 9").tree(TOY)


def test_every_listed_edit_fits_the_code_and_names_tests_that_exist():
    assert len({mutant.name for mutant in LISTED}) == len(LISTED)
    for mutant in LISTED:
        mutant.tree()
        assert mutant.tests, f"{mutant.name}: no test is named"
        for test in mutant.tests:
            file, function = test.split("::")
            names = [name for name, _ in functions(ast.parse((ROOT / file).read_text()))]
            assert function in names, f"{mutant.name}: {file} has no {function}"


def test_probes_name_every_function_that_runs():
    seen = []
    scope = {"probe": seen.append, "join": lambda left, right: 0}
    exec(compile(with_probes(ast.parse(TOY), "toy", "probe"), "toy", "exec"), scope)
    scope["Shelf"]().add([1], [2])()
    assert seen == ["toy:Shelf.add", "toy:Shelf.add.<locals>.inner"]
    assert scope["first"].__doc__ == "Not a number: 1 < 2."


def known(**functions_of_tests):
    tests = {
        name: {
            "seconds": 1.0 + at,
            "failed": name == "broken",
            "fixtures": ["model"],
            "functions": names,
        }
        for at, (name, names) in enumerate(functions_of_tests.items())
    }
    return {"loading": [], "fixtures": {"model": 2.5}, "tests": tests}


def test_only_tests_that_run_the_function_are_chosen():
    mutant = Mutant("sidar.align.dpo", "dpo", "arithmetic 1")
    files = {
        "tests/train/test_a.py": known(one=["sidar.align.dpo:dpo"], two=["sidar.align.dpo:sdpo"]),
        "tests/train/test_b.py": known(
            broken=["sidar.align.dpo:dpo"], other=["sidar.align.dpo:sdpo"]
        ),
        "tests/align/test_c.py": known(other=[], slow=["sidar.align.dpo:dpo"]),
    }
    chosen = choose(mutant, files)
    assert [(some.file, some.tests, some.seconds) for some in chosen] == [
        ("tests/train/test_a.py", ["one"], 3.5),
        ("tests/align/test_c.py", ["slow"], 4.5),
    ]
    files["tests/data/test_d.py"] = known(any=[]) | {"loading": ["sidar.align.dpo:dpo"]}
    assert ["any"] in [
        some.tests for some in choose(mutant, files)
    ]  # a function that runs on import concerns every test


def test_a_child_is_stopped_in_time(tmp_path):
    assert in_child(lambda: 3, tmp_path / "log", 60, tmp_path / "t") == 3
    assert in_child(lambda: 1 // 0, tmp_path / "log", 60, tmp_path / "t") == 70

    def endless():
        while True:
            pass

    assert in_child(endless, tmp_path / "log", 0.3, tmp_path / "t") is None
    assert not (tmp_path / "t").exists()


def test_the_kept_score_is_of_these_mutants_and_explains_every_survivor():
    kept = json.loads((ROOT / "benchmarks" / "results" / "mutation.json").read_text())
    names = [row["name"] for row in kept["mutants"]]
    assert {mutant.name for mutant in LISTED} <= set(names)
    assert len(names) - len(LISTED) >= 100
    assert len(set(names)) == len(names)
    survivors = [row for row in kept["mutants"] if row["outcome"] == "survived"]
    assert all(row["why"] != "not explained yet" for row in survivors)
    assert kept["score"] == round(1 - len(survivors) / len(names), 4) >= 0.95
    assert set(EXPLAINED) <= set(names)
    again = summary(kept["mutants"], LISTED, kept["seed"])
    assert (again["score"], again["listed"], again["drawn"]) == (
        kept["score"],
        kept["listed"],
        kept["drawn"],
    )
