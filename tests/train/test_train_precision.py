"""fp32 master weights: a step at the papers' learning rate moves the weights, under bf16 autocast
too.
"""

import pytest
import torch
from toy_train import quick, sft_task, tiny_model, write_backbone

from sidar.train.loop import fit


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_at_1e_6_moves_more_than_99_percent_of_the_touched_weights(tmp_path, precision):
    model = tiny_model(write_backbone(tmp_path / "backbone"))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    cfg = quick(
        steps=1, lr_new=1e-6, lr_pretrained=1e-6, warmup=0.0, weight_decay=0.0, precision=precision
    )
    fit(
        sft_task(model),
        cfg,
        seed=0,
        device="cpu",
        work=tmp_path,
        identity={},
        title="toy",
        progress=False,
    )
    touched = moved = 0
    for name, p in model.named_parameters():
        with_gradient = p.grad != 0
        touched += int(with_gradient.sum())
        moved += int(((p != before[name]) & with_gradient).sum())
    assert touched > 10_000
    assert moved > 0.99 * touched
    as_bf16 = sum(
        int(((p.bfloat16() != before[n].bfloat16()) & (p.grad != 0)).sum())
        for n, p in model.named_parameters()
    )
    assert as_bf16 < 0.1 * touched  # what bf16 weights would have kept of that step
