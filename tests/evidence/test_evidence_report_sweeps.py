"""One dial at a time: families, changes between values, gains where levels cannot be compared, what
is marked.
"""

import re

import pytest
from evidence_cells import LEXICON, SIMULATOR, Folder, main_cells, read, write

from benchmarks.evidence.report.compare import compare, difference
from benchmarks.evidence.report.show import plain_number, signed
from benchmarks.evidence.report.summary import lines
from benchmarks.evidence.report.sweeps import changes

MRR = "click.sid.mrr"


@pytest.fixture
def folder(tmp_path):
    return main_cells(Folder(tmp_path))


def part(folder, heading):
    page, _ = write(folder)
    page = page[page.index("Sweeps") :]
    return page[page.index(f"### {heading}") :].split("\n### ")[0]


def line_of(text, start):
    return next(x for x in text.splitlines() if x.startswith(f"| {start}"))


def test_values_are_compared_with_each_other_over_shared_seeds(folder):
    folder.add("raddpo", 3, effect=0.9, held_out=False)  # a seed that the sweep does not have
    folder.add("sft", 3, kind="sft", effect=0.0, held_out=False)
    for seed in range(3):
        folder.add("raddpo", seed, axis="n=1", effect=0.1, held_out=False)
        folder.add("raddpo", seed, axis="n=16", effect=-0.1, held_out=False)
    text = part(folder, "Negatives per list")
    assert "**higher**" in line_of(text, "RAD-DPO (softmax): 1 − 3")
    assert "**lower**" in line_of(text, "RAD-DPO (softmax): 16 − 1")
    assert "SID MRR (click): 1 higher, 2 lower, 0 cannot tell." in text
    (own,) = compare(read(folder), [difference("raddpo", "sft", MRR, seeds=(0, 1, 2))])
    base = line_of(text, "RAD-DPO (softmax), 3 (*base*)")
    assert f"{signed(own.test.effect)} (" in base  # not with the fourth seed's .9
    assert "holds" not in base


def test_a_contrast_without_a_gradient_is_marked(folder):
    for seed in range(3):
        folder.add("raddpo-paper", seed, held_out=False)
        folder.add(
            "raddpo-paper", seed, axis="n=16", train={"gradient_ratio": 0.002}, held_out=False
        )
    text = part(folder, "Negatives per list")
    assert ".002, inactive" in line_of(text, "RAD-DPO (printed), 16")
    assert "inactive" not in line_of(text, "RAD-DPO (printed), 3")


def sized(folder, size, gain, seeds=3):
    for seed in range(seeds):
        for system, effect in (
            ("sft", 0.0),
            ("sft-continued", 0.0),
            ("raddpo", gain),
            ("dpo", 0.0),
        ):
            kind = "sft" if system == "sft" else "align"
            own = {} if system == "sft" else {"parent": f"sft@size={size}.s{seed}"}
            folder.add(
                system, seed, axis=f"size={size}", kind=kind, effect=effect, held_out=False, **own
            )


def test_models_of_other_sizes_are_compared_by_their_gains(folder):
    sized(folder, "2x192", 0.1)
    line = next(x for x in lines(read(folder)) if "smaller on a larger" in x.text)
    assert line.words[0] == "not run"
    sized(folder, "8x512", 0.0)
    text = part(folder, "Size of the model")
    assert "**lower**" in line_of(text, "RAD-DPO (softmax): 8x512 − 2x192")
    line = next(x for x in lines(read(folder)) if "smaller on a larger" in x.text)
    assert (line.words[0], "(8x512 against 2x192)" in line.text) == ("holds", True)


def test_what_tlgd_is_worth_is_asked_at_every_codebook_in_the_order_of_sharing(folder):
    for seed in range(3):
        folder.add("raddpo-no-tlgd", seed, effect=0.02, held_out=False)
        for sids, shared, gain in (("64-8", 0.6, 0.15), ("8-64", 0.1, 0.02)):
            axis, own = f"sids={sids}", {"parent": f"sft@sids={sids}.s{seed}"}
            mechanism = {"pairs/shared1": shared, "pairs/shared2": 0.01}
            folder.add("sft", seed, axis=axis, kind="sft", mechanism=mechanism, held_out=False)
            folder.add("raddpo", seed, axis=axis, effect=gain, held_out=False, **own)
            folder.add("raddpo-no-tlgd", seed, axis=axis, effect=0.02, held_out=False, **own)
    text = part(folder, "Prefix sharing")
    assert "**holds**" in line_of(text, "at 64-8 |")
    assert "**holds**" in line_of(text, "at 64-8, less at 16-8 (*base*)")
    assert "cannot tell here" in line_of(text, "at 8-64, less at 16-8 (*base*)")
    table = text[text.index("| codebooks |") :]
    assert re.findall(r"^\| (\d+-\d+) \|", table, re.MULTILINE) == ["8-64", "16-8", "64-8"]


def test_growth_with_rows_is_asked_again_at_equal_rates(folder):
    rate = "lr_new=3e-05"
    for seed in range(3):
        folder.add("sft-continued", seed, axis=rate, effect=0.0, groups=("ladder",), held_out=False)
        for axis, own, control in (("lists=960", 0.0, 0.0), ("lists=9600", 0.1, 0.0)):
            folder.add("raddpo", seed, axis=axis, effect=own, held_out=False)
            folder.add("sft-continued", seed, axis=axis, effect=control, held_out=False)
        folder.add("sft-continued", seed, axis=f"lists=9600,{rate}", effect=0.08, held_out=False)
    text = part(folder, "Rows of alignment")
    assert "**higher**" in line_of(text, "RAD-DPO (softmax): 9600 − 960")
    table = text[text.index("− SFT continued at its rate: SID MRR (click)") :]
    assert "**higher**" in line_of(table, "2400 rows")  # the planted .02
    assert "cannot tell here" in line_of(table, "the change")
    found = lines(read(folder))
    grown = next(i for i, x in enumerate(found) if "grows with the rows" in x.text)
    assert [x.words[0] for x in found[grown : grown + 2]] == ["holds", "cannot tell here"]


def test_the_shipped_setting_is_compared_with_its_controls_alone(folder):
    """Its cells have other SIDs: each is set beside SFT and SFT continued of the same bed, in a
    line of its own.
    """
    bed = {"simulator": SIMULATOR, "lexicon": LEXICON, "lists": "1", "sids": "3"}
    own = {"bed": bed, "held_out": True, "groups": ("shipped",)}
    settings = {"beta": 0.5, "steps": 480, "batch_size": 16, "rdrw_window": 4096, "lr_new": 3e-5}
    assert "The shipped RAD-DPO" not in write(folder)[0]
    for seed in range(3):
        folder.add("sft", seed, axis="bed=shipped", kind="sft", effect=-0.1, **own)
        folder.add("sft-continued", seed, axis="bed=shipped,lists=7680", effect=0.0, **own)
        facts = {"config": {"align": settings}, "index": {"n_sids": 6143}}
        folder.add(
            "raddpo",
            seed,
            axis="bed=shipped,beta=0.5,lists=7680,window=4096",
            effect=0.1,
            **own,
            **facts,
        )
    page, _ = write(folder)
    text = page[page.index("### The shipped RAD-DPO") :].split("\n## ")[0]
    assert "β 0.5, 480 steps of 16, a window of 4096 and lr_new 3e-05" in text
    assert "6,143 SIDs" in text
    assert "**higher**" in line_of(text, "RAD-DPO (softmax) as shipped − SFT continued")
    assert text.count("2 higher, 0 lower, 0 cannot tell") == 4
    assert (
        "| Does it, as shipped, beat SFT continued at the same rate on next-day clicks? | "
        "**holds** |"
    ) in page
    (across,) = compare(
        read(folder),
        [
            difference(
                "raddpo",
                "sft",
                MRR,
                variant="bed=shipped,beta=0.5,lists=7680,window=4096",
                b_variant="",
            )
        ],
    )
    assert across.test is None  # SFT of the other bed


def test_one_question_has_one_verdict(folder):
    """The summary's line on rows is the sweep's own, corrected with it."""
    for seed in range(3):
        for lists, gain in (("960", 0.0), ("9600", 0.05)):
            for system, effect in (("sft-continued", 0.0), ("raddpo", gain), ("dpo", 0.0)):
                folder.add(system, seed, axis=f"lists={lists}", effect=effect, held_out=False)
    evidence = read(folder)
    line = next(each for each in lines(evidence) if "grows with the rows" in each.text)
    found = changes(evidence, "lists", MRR)
    assert [what for what in found if what.startswith("RAD-DPO")] == [
        "RAD-DPO (softmax): 9600 − 960"
    ]
    assert line.words[0] == found["RAD-DPO (softmax): 9600 − 960"].word == "holds"
    assert line.seen[0] == plain_number(found["RAD-DPO (softmax): 9600 − 960"].detectable, 4)
