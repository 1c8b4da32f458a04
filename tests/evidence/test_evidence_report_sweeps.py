"""One dial at a time: families, changes between values, gains where levels cannot be compared, what
is marked.
"""

import re

import pytest
from evidence_cells import LEXICON, SIMULATOR, Folder, main_cells, read, write

from experiments.raddpo.report.compare import compare
from experiments.raddpo.report.contrast import difference
from experiments.raddpo.report.families import family
from experiments.raddpo.report.show import signed

MRR = "click.sid.mrr"


@pytest.fixture
def folder(tmp_path):
    return main_cells(Folder(tmp_path))


def line_of(text, start):
    return next(x for x in text.splitlines() if x.startswith(f"| {start}"))


def test_values_are_compared_with_each_other_over_shared_seeds(folder):
    folder.add("raddpo", 3, effect=0.9, held_out=False)  # a seed that the sweep does not have
    folder.add("sft", 3, kind="sft", effect=0.0, held_out=False)
    for seed in range(3):
        folder.add("raddpo", seed, axis="n=1", effect=0.1, held_out=False)
        folder.add("raddpo", seed, axis="n=16", effect=-0.1, held_out=False)
    results = family(read(folder), "n", MRR)
    words = {"RAD-DPO (softmax): 1 − 3": "holds", "RAD-DPO (softmax): 16 − 1": "does not hold"}
    assert {name: results[name].word for name in words} == words
    assert [r.word for r in results.values()] == ["holds", "does not hold", "does not hold"]
    page, _ = write(folder)
    text = page[page.index("### Negatives per list, from one value to another: SID MRR (click)") :]
    assert "**higher**" in line_of(text, "RAD-DPO (softmax): 1 − 3")
    (own,) = compare(read(folder), [difference("raddpo", "sft", MRR, seeds=(0, 1, 2))])
    level = page[page.index("### Negatives per list\n") :]
    mean = line_of(level, "RAD-DPO (softmax) |").split(" | ")[2].split()[0]
    assert float(mean) < 0.6  # not with the fourth seed's .9
    assert signed(own.test.effect)
    varied = family(read(folder), f"n − {'sft'}", MRR)
    assert not any(name.startswith("RAD-DPO (softmax) −") for name in varied)  # the base is none


def test_a_contrast_without_a_gradient_is_marked(folder):
    for seed in range(3):
        folder.add("raddpo-paper", seed, held_out=False)
        folder.add(
            "raddpo-paper", seed, axis="n=16", train={"gradient_ratio": 0.002}, held_out=False
        )
    page, _ = write(folder)
    text = page[page.index("### Negatives per list: in training") :]
    assert ".002, inactive" in line_of(text, "RAD-DPO (printed) (n 16)")
    assert "inactive" not in line_of(text, "RAD-DPO (printed) |")


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
    assert family(read(folder), "shrinks", MRR) == {}
    sized(folder, "8x512", 0.0)
    results = family(read(folder), "size", MRR)
    assert results["RAD-DPO (softmax): 8x512 − 2x192"].word == "does not hold"
    ((name, smaller),) = family(read(folder), "shrinks", MRR).items()
    assert ("(8x512 against 2x192)" in name, smaller.word) == (True, "holds")


def test_what_tlgd_is_worth_is_asked_at_every_codebook_in_the_order_of_sharing(folder):
    for seed in range(3):
        folder.add("raddpo-no-tlgd", seed, effect=0.02, held_out=False)
        for sids, shared, gain in (("64-8", 0.6, 0.15), ("8-64", 0.1, 0.02)):
            axis, own = f"sids={sids}", {"parent": f"sft@sids={sids}.s{seed}"}
            mechanism = {"pairs/shared1": shared, "pairs/shared2": 0.01}
            folder.add("sft", seed, axis=axis, kind="sft", mechanism=mechanism, held_out=False)
            folder.add("raddpo", seed, axis=axis, effect=gain, held_out=False, **own)
            folder.add("raddpo-no-tlgd", seed, axis=axis, effect=0.02, held_out=False, **own)
    results = family(read(folder), "sharing", MRR)
    at = "RAD-DPO (softmax) (sids {0}) − w/o TLGD (sids {0})".format
    assert list(results)[:2] == [at("8-64"), at("64-8")]  # by how much is shared
    assert results[at("64-8")].word == "holds"
    assert results[at("64-8") + ", less at the base"].word == "holds"
    assert results[at("8-64") + ", less at the base"].word == "cannot tell here"
    page, _ = write(folder)
    table = page[page.index("| codebooks |") :]
    assert re.findall(r"^\| (\S+) \| \.", table, re.MULTILINE)[:3] == [
        "base",
        "sids=8-64",
        "sids=64-8",
    ]


def test_growth_with_rows_is_asked_again_at_equal_rates(folder):
    rate = "lr_new=3e-05"
    for seed in range(3):
        folder.add("sft-continued", seed, axis=rate, effect=0.0, groups=("ladder",), held_out=False)
        for axis, own, control in (("lists=960", 0.0, 0.0), ("lists=9600", 0.1, 0.0)):
            folder.add("raddpo", seed, axis=axis, effect=own, held_out=False)
            folder.add("sft-continued", seed, axis=axis, effect=control, held_out=False)
        folder.add("sft-continued", seed, axis=f"lists=9600,{rate}", effect=0.08, held_out=False)
    evidence = read(folder)
    assert family(evidence, "lists", MRR)["RAD-DPO (softmax): 9600 − 960"].word == "holds"
    equal = family(evidence, "rows at equal rates", MRR)
    assert {name: result.word for name, result in equal.items()} == {
        "2400 rows": "holds",  # the planted .02
        "9600 rows": "holds",
        "the change": "cannot tell here",
    }


def test_the_shipped_setting_is_compared_with_its_controls_alone(folder):
    """Its cells have other SIDs: each is set beside SFT and SFT continued of the same bed, in a
    line of its own.
    """
    bed = {"simulator": SIMULATOR, "lexicon": LEXICON, "lists": "1", "sids": "3"}
    own = {"bed": bed, "held_out": True, "groups": ("shipped",)}
    settings = {"beta": 0.5, "steps": 480, "batch_size": 16, "rdrw_window": 4096, "lr_new": 3e-5}
    assert family(read(folder), "shipped", MRR) == {}
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
    text = page[page.index("## The shipped RAD-DPO") :].split("\n## ")[0]
    assert "β 0.5, 480 steps of 16, a window of 4096 and lr_new 3e-05" in text
    for metric in (MRR, "click.item.ndcg@10", "utility.sid.ndcg@10", "utility.item.ndcg@10"):
        results = family(read(folder), "shipped", metric)
        assert [result.word for result in results.values()] == ["holds", "holds"]
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
