"""Checkpoints: whole or absent, verified before use, and never of another run."""

import json
import shutil

import pytest
import torch
from torch import nn

from sidar.fitting import checkpoint


def trained(seed=0, steps=3):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(2, 2))
    model[2].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(torch.randn(3, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder, step, model, optimizer, keep=2, **state):
    base = {"identity": {"a": 1}, "environment": checkpoint.environment()}
    return checkpoint.save(folder, step, model, optimizer, {**base, **state}, keep)


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def test_weights_and_moments_come_back_exactly_and_training_goes_on_alike(tmp_path):
    model, optimizer = trained()
    save(tmp_path, 3, model, optimizer, window=[0.1, 0.2])
    other, other_optimizer = trained(seed=1, steps=1)
    other[2].load_state_dict(model[2].state_dict())  # frozen weights are rebuilt, not restored
    found = checkpoint.newest(tmp_path)
    checkpoint.restore(found, other, other_optimizer)
    assert (found.step, found.state["window"]) == (3, [0.1, 0.2])
    for m, o in ((model, optimizer), (other, other_optimizer)):
        torch.manual_seed(7)
        m(torch.randn(3, 4)).square().sum().backward()
        o.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_named_buffers_are_kept_and_others_are_not(tmp_path):
    def counting(value):
        model = nn.Linear(2, 2)
        model.register_buffer("mean", torch.full((3,), value))
        model.register_buffer("fixed", torch.full((3,), value))
        return model, torch.optim.AdamW(model.parameters())

    model, optimizer = counting(1.0)
    state = {"identity": {}, "environment": checkpoint.environment()}
    checkpoint.save(tmp_path, 1, model, optimizer, state, buffers=("mean",))
    other, other_optimizer = counting(5.0)
    found = checkpoint.newest(tmp_path)
    checkpoint.restore(found, other, other_optimizer, buffers=("mean",))
    assert (other.mean.tolist(), other.fixed.tolist()) == ([1.0] * 3, [5.0] * 3)
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(ValueError, match="belongs to another model"):
        checkpoint.restore(found, other, other_optimizer)


def test_a_parameter_that_never_had_a_gradient_has_no_moments(tmp_path):
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model[1](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save(tmp_path, 1, model, optimizer)
    fresh = torch.optim.AdamW(model.parameters(), lr=1e-2)
    checkpoint.restore(checkpoint.newest(tmp_path), model, fresh)
    assert set(fresh.state) == set(model[1].parameters())


def test_only_the_newest_are_kept(tmp_path):
    model, optimizer = trained()
    for step in (1, 2, 3, 4):
        save(tmp_path, step, model, optimizer, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_an_unfinished_save_is_invisible_and_overwritten(tmp_path):
    model, optimizer = trained()
    save(tmp_path, 1, model, optimizer)
    (tmp_path / ".step-00000002.tmp").mkdir()
    (tmp_path / ".step-00000002.tmp" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path).step == 1
    save(tmp_path, 2, model, optimizer)
    assert checkpoint.newest(tmp_path).step == 2


@pytest.mark.parametrize(
    "name", [checkpoint.WEIGHTS, checkpoint.MOMENTS, checkpoint.STATE, checkpoint.MANIFEST]
)
@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_a_damaged_newest_falls_back_loudly(tmp_path, name, harm):
    model, optimizer = trained()
    save(tmp_path, 1, model, optimizer)
    newest = save(tmp_path, 2, model, optimizer)
    data = bytearray((newest / name).read_bytes())
    if harm == "delete":
        (newest / name).unlink()
    else:
        data[len(data) // 2] ^= 1
        (newest / name).write_bytes(data[: len(data) // 2] if harm == "cut" else data)
    with pytest.warns(RuntimeWarning, match="falling back"):
        assert checkpoint.newest(tmp_path).step == 1


def test_nothing_saved_is_none_and_nothing_intact_is_refused(tmp_path):
    assert checkpoint.newest(tmp_path / "none") is None
    model, optimizer = trained()
    path = save(tmp_path, 1, model, optimizer)
    (path / checkpoint.WEIGHTS).unlink()
    with pytest.warns(RuntimeWarning), pytest.raises(ValueError, match="start afresh"):
        checkpoint.newest(tmp_path)


def test_another_config_is_refused_by_name_and_another_machine_warned_about(tmp_path):
    model, optimizer = trained()
    save(tmp_path, 1, model, optimizer)
    found = checkpoint.newest(tmp_path)
    checkpoint.check_identity(found, {"a": 1})
    with pytest.raises(ValueError, match=r"a: 1 -> 2; sft\.lr: None -> 0\.1"):
        checkpoint.check_identity(found, {"a": 2, "sft": {"lr": 0.1}})
    found.state["environment"]["threads"] = -1
    with pytest.warns(RuntimeWarning, match="not be bit-exact"):
        checkpoint.check_identity(found, {"a": 1})


def test_weights_of_another_model_are_refused(tmp_path):
    model, optimizer = trained()
    save(tmp_path, 1, model, optimizer)
    wider = nn.Sequential(nn.Linear(4, 6))
    with pytest.raises(ValueError, match="another model"):
        checkpoint.restore(
            checkpoint.newest(tmp_path), wider, torch.optim.AdamW(wider.parameters())
        )


def test_tied_weights_are_stored_once(tmp_path):
    model = nn.ModuleDict({"words": nn.Embedding(3, 2), "head": nn.Linear(2, 3, bias=False)})
    model["head"].weight = model["words"].weight
    optimizer = torch.optim.AdamW(model.parameters())
    save(tmp_path, 1, model, optimizer)
    checkpoint.restore(checkpoint.newest(tmp_path), model, optimizer)
    assert list(checkpoint.trainable(model)) == ["words.weight"]


def test_the_hash_of_frozen_weights_sees_them_and_only_them():
    model, _ = trained()
    before = checkpoint.frozen_hash(model)
    with torch.no_grad():
        model[0].weight += 1
    assert checkpoint.frozen_hash(model) == before
    with torch.no_grad():
        model[2].weight += 1
    assert checkpoint.frozen_hash(model) != before
    assert checkpoint.frozen_hash(nn.Linear(2, 2)) == ""


def test_the_state_is_plain_json_and_a_copied_folder_still_verifies(tmp_path):
    model, optimizer = trained()
    path = save(tmp_path / "a", 1, model, optimizer)
    assert json.loads((path / checkpoint.STATE).read_text())["step"] == 1
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert checkpoint.newest(tmp_path / "b").step == 1
