"""A shop without a log: the example of the docs over a small cut, from its raw files to a filtered
query.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from raw_shop import write_shop

from sidar import Retriever, pipeline
from sidar.answer.facts import read_facts
from sidar.config import Config, EvalSetConfig, EvaluateConfig, load_config
from sidar.data import toy
from sidar.data.judgments.evalsets import tuning_and_test
from sidar.data.judgments.judged import StoredSet
from sidar.pipeline.plan import plan, stages
from sidar.pipeline.remember import update_memory
from sidar.pipeline.rows.answer_texts import PSEUDO, of_judgments, of_words, requests_without_log
from sidar.train.pseudo import Matches, item_words
from sidar.types import EvalSet, Prompt

EXAMPLE = Path(__file__).parents[2] / "examples" / "chorus.yaml"
#: Toy sizes; everything else is as the example has it.
SMALL = (
    *("embed.model=hashing:32", "lm.layers=1", "lm.hidden=32", "lm.heads=2", "lm.kv_heads=2"),
    *("lm.intermediate=64", "lm.text_embeddings=random", "sft.steps=4", "sft.batch_size=8"),
    *("sft.validate_every=2", "sft.valid_requests=8", "decode.beam=16", "threads=1"),
    *("evaluate.invalid_queries=2", "evaluate.bootstrap=50"),
)
ITEMS = toy.catalogue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The example's YAML beside a small cut of such files, run to its bundle and table."""
    folder = write_shop(tmp_path_factory.mktemp("chorus"))
    (folder / "sidar.yaml").write_text(EXAMPLE.read_text())
    cfg = load_config(folder / "sidar.yaml", list(SMALL))
    pipeline.run(cfg)
    return cfg


def test_from_raw_files_to_a_filtered_query(run: Config) -> None:
    shop = Retriever.load(run.run_dir / "bundle")
    found = shop.search("usb hub", k=5, filter='price 10 TO 50 AND brand IN ["Norva", "Lumo"]')
    assert len(found) == 5
    for hit in found:
        assert hit.price is not None
        assert 10 <= hit.price <= 50
        assert hit.brand in ("Norva", "Lumo")
    light = shop.search(
        "mouse", k=3, filter="attributes.attr_n_weight < 250 AND attributes.attr_b_wireless = true"
    )
    assert {hit.title.split()[1] for hit in light} == {"wireless"}


def test_the_first_day_of_a_log_is_counted_into_the_bundle(run: Config, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(run.run_dir / "bundle", bundle)
    shutil.copyfile(run.run_dir / "memory.key", tmp_path / "memory.key")
    last = Retriever.load(bundle).search("usb hub", k=48)[-1]
    assert last.count == 0
    log = tmp_path / "monday.csv"
    clicks = [f"2026-11-23 0{hour}:00:00,user {hour},usb hub,{last.item_id}" for hour in range(9)]
    log.write_text("\n".join(["ts,user_id,query,item_id", *clicks]) + "\n")
    events = run.events.model_copy(update={"path": str(log)})
    update_memory(run.model_copy(update={"events": events}), bundle)
    first = Retriever.load(bundle).search("usb hub", k=5)[0]
    assert (first.item_id, first.count) == (last.item_id, 9)


def test_the_answer_is_fitted_to_the_tuning_queries_alone(run: Config) -> None:
    facts = read_facts(run.run_dir / "answer")
    assert (facts["fuse"], facts["label"], facts["fitted_on"]) == ("memory", "sft", "rated-tuning")
    tuning = json.loads((run.run_dir / "data" / "eval" / "sets.json").read_text())
    counts = {one["name"]: (one["role"], one["queries"]) for one in tuning}
    assert counts["rated-tuning"][0] == "valid"
    assert counts["rated"][0] == "test"
    assert counts["rated"][1] + counts["rated-tuning"][1] == 18
    assert facts["fit"]["requests"] == counts["rated-tuning"][1]
    assert facts["memory"]["queries"] == 0
    assert facts["fit"]["params"]["kappa"] == pytest.approx(2.0)  # nothing says otherwise


def test_the_table_has_each_channel_and_the_answer(run: Config) -> None:
    scores = json.loads((run.run_dir / "evaluate" / "scores.json").read_text())
    rows = set(scores["sets"]["rated"]["systems"])
    assert {"bm25", "dense", "bm25+dense", "sft", "sft+rerank", "answer"} <= rows
    assert not {"memory", "prior", "bm25+dense+prior"} & rows  # nothing was clicked


def test_nothing_is_made_again(run: Config) -> None:
    assert [step.stage.name for step in plan(run) if step.reason] == []
    assert [stage.name for stage in stages(run)] == [
        *("data", "embed", "sid", "sft", "index", "answer", "bundle", "evaluate")
    ]


def test_other_tuning_queries_fit_the_answer_again(run: Config) -> None:
    one = run.evaluate.sets[0].model_copy(update={"tuning_share": 0.3})
    other = run.model_copy(update={"evaluate": run.evaluate.model_copy(update={"sets": [one]})})
    assert [step.stage.name for step in plan(other) if step.reason] == [
        *("answer", "bundle", "evaluate")
    ]


def judged(grades: dict[str, dict[str, float]], name: str = "judged") -> EvalSet:
    prompts = tuple(Prompt(query) for query in grades)
    return EvalSet(name, tuple(grades), prompts, grades)


def test_judged_queries_chose_their_best_items() -> None:
    asked = of_judgments(
        judged({"a": {"T003": 3, "T001": 3, "T002": 1}, "b": {"T004": 0}, "c": {"T005": 1}}),
        ITEMS,
        10,
    )
    assert asked.ids == ("a", "c")
    assert asked.request.tolist() == [0, 0, 1]
    assert asked.row.tolist() == [1, 3, 5]
    assert (asked.held_out, asked.source) == (True, "judged")
    assert of_judgments(judged({"a": {"T003": 3}, "c": {"T005": 1}}), ITEMS, 1).ids == ("a",)


def test_pseudo_queries_have_every_item_with_their_words() -> None:
    asked = of_words(ITEMS, 20, seed=0)
    assert asked.source == PSEUDO
    assert len(asked) == 20
    columns = (ITEMS.column(name) for name in ("title", "category", "brand"))
    words = [item_words(*parts) for parts in zip(*columns, strict=True)]
    matches = Matches(words, np.arange(len(ITEMS)))
    for place, prompt in enumerate(asked.prompts):
        assert asked.row[asked.request == place].tolist() == matches(prompt.query).tolist()
    assert of_words(ITEMS, 20, seed=0).ids == asked.ids
    assert of_words(ITEMS, 20, seed=1).ids != asked.ids


def test_without_tuning_queries_the_products_words_fit_the_answer(run: Config) -> None:
    bare = run.model_copy(update={"evaluate": EvaluateConfig()})
    asked = requests_without_log(bare, run.run_dir / "data")
    assert asked is not None
    assert asked.source == PSEUDO


def test_a_share_of_a_set_tunes_and_the_rest_is_reported() -> None:
    evalset = judged({f"query {n}": {"T001": 1.0} for n in range(40)}, "rated")
    tuning, test = tuning_and_test(StoredSet(evalset, "test"), 0.4)
    assert (tuning.evalset.name, tuning.role) == ("rated-tuning", "valid")
    assert (test.evalset.name, test.role) == ("rated", "test")
    assert not set(tuning.evalset.query_ids) & set(test.evalset.query_ids)
    assert set(tuning.evalset.query_ids) | set(test.evalset.query_ids) == set(evalset.query_ids)
    assert 8 <= len(tuning.evalset) <= 24
    # a query's half depends on its own text alone
    fewer = judged({f"Query  {n}": {"T001": 1.0} for n in range(0, 40, 2)}, "rated")
    again, _ = tuning_and_test(StoredSet(fewer, "test"), 0.4)
    assert {i.lower().replace("  ", " ") for i in again.evalset.query_ids} == {
        i for i in tuning.evalset.query_ids if int(i.split()[1]) % 2 == 0
    }
    with pytest.raises(ValueError, match="leaves nothing to tune on"):
        tuning_and_test(StoredSet(judged({"a": {"T001": 1.0}}), "test"), 0.4)


def test_what_needs_a_log_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cuts a test set"):
        EvalSetConfig(name="s", queries="q", qrels="q", role="valid", tuning_share=0.5)
    named: dict[str, object] = {"catalogue": {"path": "products.csv"}, "runs": str(tmp_path)}
    described = Config.model_validate({**named, "events": {"columns": {"ts": "time"}}})
    with pytest.raises(ValueError, match=r"events\.path is empty, but events\.columns describes"):
        plan(described)
    with pytest.raises(ValueError, match=r"ranker\.enabled learns from a log"):
        plan(Config.model_validate({**named, "ranker": {"enabled": True}}))
    path = tmp_path / "sidar.yaml"
    written = {"catalogue": {"path": "products-*.json.zip", "clicked_within_days": 3}}
    path.write_text(yaml.safe_dump(written))
    write_shop(tmp_path, 8)
    with pytest.raises(ValueError, match="clicked_within_days needs a log"):
        pipeline.run(load_config(path, ["catalogue.columns={item_id: id}"]), only="data")
