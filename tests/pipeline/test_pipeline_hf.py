"""The whole pipeline over somebody's local causal LM (random Qwen3, BPE tokenizer made on the
spot), full and LoRA.
"""

import json

import pytest
import yaml
from toy_train import write_backbone

from sidar import Retriever, pipeline
from sidar.config import load_config
from sidar.data import toy
from sidar.evaluate.table import check_table, read_scores

QUICK = {"steps": 4, "batch_size": 4, "validate_every": 1, "checkpoint_every": 4}
SETTINGS = {
    "name": "shop",
    "threads": 1,
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "events.parquet"},
    "users": {"path": "users.parquet"},
    "embed": {"model": "hashing:64"},
    "sft": QUICK,
    "align": {**QUICK, "objective": "dpo"},  # the one that needs a frozen copy beside the adapters
    "decode": {"beam": 16},
    "evaluate": {
        "invalid_queries": 2,
        "bootstrap": 50,
        "max_queries": 8,
        "tune_queries": 4,
        "best": True,
    },
}


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 4}], ids=["full", "lora"])
def test_a_local_language_model_goes_from_log_to_search(tmp_path, lora):
    toy.write_inputs(tmp_path)
    lm = {"backbone": str(write_backbone(tmp_path / "backbone")), "lora": lora}
    (tmp_path / "sidar.yaml").write_text(yaml.safe_dump({**SETTINGS, "lm": lm}))
    pipeline.run(load_config(tmp_path / "sidar.yaml"))
    assert check_table(tmp_path / "runs/shop/evaluate") > 100
    systems = read_scores(tmp_path / "runs/shop/evaluate")["sets"]["day8-clicks"]["systems"]
    # a best checkpoint that is not the final one has a row
    for name, folder in (("sft", "sft"), ("dpo", "align-dpo")):
        step = json.loads((tmp_path / "runs/shop" / folder / "best/step.json").read_text())["step"]
        assert name in systems
        assert (f"{name}-best" in systems) == (step != 4)
    retriever = Retriever.load(tmp_path / "runs/shop/bundle")
    assert bool(retriever.model.config.lora) == bool(lora)
    assert len({hit.item_id for hit in retriever.search("steel water bottle", k=5)}) == 5
