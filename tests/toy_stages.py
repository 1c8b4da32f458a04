"""The toy shop as the stages before training leave it: a config of tiny stages, and the folders
they read.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidar.config import Config
from sidar.data import build, open_dataset, toy
from sidar.embed import HashingEmbedder
from sidar.sid import RqKmeans
from sidar.sid.table import save_sids
from sidar.types import SidInputs


def config(inputs, **sections):
    """Tiny stages on the toy shop; ``sections`` override, e.g. ``align={"objective": "dpo"}``."""
    optim = {
        "steps": 12,
        "batch_size": 16,
        "precision": "fp32",
        "validate_every": 6,
        "checkpoint_every": 4,
        "log_every": 3,
        "valid_requests": 16,
    }
    lm = {
        "layers": 2,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 64,
        "text_embeddings": "random",
    }
    return Config.model_validate(
        {
            "threads": 1,
            "device": "cpu",
            "catalogue": {"path": str(inputs / "catalogue.parquet")},
            "events": {"path": str(inputs / "events.parquet")},
            "users": {"path": str(inputs / "users.parquet")},
            "lm": {**lm, "max_prompt_tokens": 48, **sections.get("lm", {})},
            "sft": {**optim, "lr_new": 3e-3, **sections.get("sft", {})},
            "align": {**optim, "rdrw_window": 64, **sections.get("align", {})},
            "preference": sections.get("preference", {}),
            "evaluate": sections.get("evaluate", {}),
            "split": sections.get("split", {}),
        }
    )


#: First words of the queries of a marked shop, by the split of the request's day; no product has
#: one of them.
MARKS = {"train": "zebra", "valid": "violin", "test": "cactus"}


def mark_queries(inputs):
    """Put the word of its split before each query of the log in ``inputs``, so that a prompt names
    where it is from.
    """
    path = inputs / "events.parquet"
    events = pq.read_table(path)
    day = (events.column("ts").to_numpy() - toy.FIRST_DAY) // toy.DAY_US + 1
    words = np.where(day <= 6, MARKS["train"], np.where(day == 7, MARKS["valid"], MARKS["test"]))
    marked = pc.binary_join_element_wise(
        pa.array(words.tolist()), events.column("query").combine_chunks(), " "
    )
    pq.write_table(events.set_column(events.column_names.index("query"), "query", marked), path)


def build_shop(folder, *, marked=False):
    """Fill ``folder`` with ``inputs/``, ``data/`` and ``sid/``; ``marked``: queries name the split
    of their request.
    """
    toy.write_inputs(folder / "inputs")
    if marked:
        mark_queries(folder / "inputs")
    build(config(folder / "inputs"), folder / "data")
    data = open_dataset(folder / "data")
    vectors = np.asarray(
        HashingEmbedder(32).encode(data.item_text(["title", "category"]), 64), np.float32
    )
    (folder / "sid").mkdir()
    tokenizer = RqKmeans((8, 4, 4), seed=0).fit(SidInputs(vectors))
    tokenizer.save(folder / "sid")
    sids = tokenizer.encode(SidInputs(vectors))
    save_sids(folder / "sid" / "sids.parquet", item_ids=data.catalogue.item_ids, sids=sids)
    return folder
