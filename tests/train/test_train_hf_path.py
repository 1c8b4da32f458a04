"""A local Hugging Face model end to end: random 2-layer Qwen3, BPE tokenizer made on the spot, full
and LoRA.
"""

import numpy as np
import pytest
import torch
from toy_train import (
    item_stream,
    pseudo_stream,
    quick,
    tiny_model,
    toy_sids,
    validator,
    write_backbone,
)

from sidar.config import LoraConfig, SftConfig
from sidar.decode import beam_search
from sidar.index import PrefixIndex
from sidar.lm import SidLM
from sidar.lm.scorer import LmScorer
from sidar.train.loop import fit
from sidar.train.sft import SftTask


def recall_at_1(model, examples):
    """Item level: 64 different SIDs, so the SID is the item."""
    index = PrefixIndex.build(toy_sids())
    beams = beam_search(LmScorer(model.eval()), [x.tokens for x in examples], index, beam=8)
    wanted = np.array([x.candidates[0].codes for x in examples])
    return float((beams.codes[:, 0] == wanted).all(-1).mean())


FULL = (None, {"steps": 160, "lr_new": 2e-3, "lr_pretrained": 2e-3})
LORA = (LoraConfig(r=16, alpha=16), {"steps": 240, "lr_new": 4e-3})


@pytest.mark.parametrize(("lora", "optim"), [FULL, LORA], ids=["full", "lora"])
def test_a_hugging_face_model_fits_the_toy_shop(tmp_path, lora, optim):
    backbone = write_backbone(tmp_path / "backbone", hidden=64)
    model = tiny_model(backbone, lora=lora)
    items = item_stream(model)
    task = SftTask(
        model,
        {"item": items, "pseudo": pseudo_stream(model)},
        {"item": 0.9, "pseudo": 0.1},
        validator(model),
        positives="mean",
        batch_size=32,
        seed=0,
    )
    cfg = quick(SftConfig, batch_size=32, validate_every=160, **optim)
    fit(
        task,
        cfg,
        seed=0,
        device="cpu",
        work=tmp_path / "work",
        identity={},
        title="hf",
        progress=False,
    )
    examples = items.examples([(i, 0) for i in range(64)])
    assert recall_at_1(model, examples) >= 0.95
    model.save_pretrained(tmp_path / "saved")
    again = SidLM.from_pretrained(tmp_path / "saved")
    assert recall_at_1(again, examples) >= 0.95
    if lora:  # the backbone's own weights are where they were
        fresh = dict(tiny_model(backbone, lora=lora).named_parameters())
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad or torch.equal(parameter, fresh[name]), name
