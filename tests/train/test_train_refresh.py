"""Negatives from the model's own beams, renewed every n steps (``preference.refresh_every``)."""

import copy

import pytest
import torch
from toy_train import align_task, quick, tiny_model, toy_sids, write_backbone

from sidar.config import AlignConfig, PreferenceConfig
from sidar.fitting import checkpoint
from sidar.index import PrefixIndex
from sidar.train.align import frozen_copy
from sidar.train.loop import fit
from sidar.train.negatives import BeamNegatives


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"), hidden=16, layers=1)


def beams(model):
    return BeamNegatives(frozen_copy(model), PrefixIndex.build(toy_sids()), 11, 8)


def a_task(backbone, cfg, refresh_every):
    model = tiny_model(backbone)
    return align_task(model, cfg, beam_negatives=beams(model), refresh_every=refresh_every)


def run(task, cfg, work):
    return fit(task, cfg, seed=0, device="cpu", work=work, identity={}, title="toy", progress=False)


def negatives_of(examples):
    return [
        [c.codes for c in example.candidates if not c.is_positive]
        for example in examples
        if example.is_list
    ]


def moved(model, by):
    """Another model with the same trained weights plus noise."""
    generator = torch.Generator().manual_seed(by)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return copy.deepcopy(model)


def test_negatives_come_from_the_model_of_the_last_refresh(backbone):
    cfg = quick(AlignConfig, objective="sdpo")
    task = a_task(backbone, cfg, refresh_every=3)
    first = frozen_copy(task.model)
    seen, models = {}, {0: first}
    for step in range(8):  # inside one pool of batches
        models[step + 1] = moved(task.model, by=step)  # an optimizer step
        seen[step] = task.batch(step)

    def by(model, step):
        """The same batch with the negatives of ``model``, drawn for each list alone."""
        drawn = [drawn.list for drawn in task._pools.batch(step) if drawn.list is not None]
        answers = [beams(model)(task._lists, [index])[0] for index in drawn]
        return negatives_of(task._lists.rows(drawn, answers))

    for step, answers_of in [(0, 0), (2, 0), (3, 4), (5, 4), (6, 7), (7, 7)]:
        assert negatives_of(seen[step]) == by(models[answers_of], step), step
    assert negatives_of(seen[3]) != by(first, 3)
    never = a_task(backbone, cfg, refresh_every=0)
    moved(never.model, by=1)
    assert negatives_of(never.batch(3)) == by(first, 3)


@pytest.mark.parametrize("objective", ["raddpo", "sdpo"])
def test_a_run_killed_between_two_refreshes_ends_with_the_same_weights(
    tmp_path, backbone, objective
):
    """A refresh every 5 steps and a checkpoint every 4: the model of step 5 is in no other file."""
    cfg = quick(AlignConfig, objective=objective, rdrw_window=32)
    whole = a_task(backbone, cfg, refresh_every=5)
    straight = run(whole, cfg, tmp_path / "whole")

    cut = a_task(backbone, cfg, refresh_every=5)
    original = cut.batch

    def dies(step):
        if step == 9:
            raise KeyboardInterrupt
        return original(step)

    cut.batch = dies
    with pytest.raises(KeyboardInterrupt):
        run(cut, cfg, tmp_path / "cut")
    again = a_task(backbone, cfg, refresh_every=5)
    resumed = run(again, cfg, tmp_path / "cut")
    assert resumed.resumed_from == 8
    for name, weight in whole.model.named_parameters():
        assert torch.equal(weight, again.model.get_parameter(name)), name
    assert (straight.loss, straight.counts) == (resumed.loss, resumed.counts)

    # the control: with the negatives of the SFT model from step 8 to 10 the run ends elsewhere
    (tmp_path / "cut" / "checkpoints" / "step-00000012").rename(tmp_path / "later")
    stale = a_task(backbone, cfg, refresh_every=5)
    stale.load_state_dict = lambda state: None  # the scorer is not made again
    run(stale, cfg, tmp_path / "cut")
    assert any(
        not torch.equal(weight, stale.model.get_parameter(name))
        for name, weight in whole.model.named_parameters()
    )


def test_a_checkpoint_without_the_kept_weights_is_damaged(tmp_path, backbone):
    cfg = quick(AlignConfig, objective="sdpo", steps=4)
    run(a_task(backbone, cfg, refresh_every=2), cfg, tmp_path)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    (newest.path / checkpoint.KEPT).unlink()
    assert "kept.safetensors is missing" in checkpoint.damage(newest.path)


def test_without_a_refresh_a_checkpoint_keeps_no_second_model(tmp_path, backbone):
    cfg = quick(AlignConfig, objective="sdpo", steps=2)
    run(a_task(backbone, cfg, refresh_every=0), cfg, tmp_path)
    assert not (checkpoint.newest(tmp_path / "checkpoints").path / checkpoint.KEPT).exists()


def test_refreshing_what_the_log_gives_is_refused():
    with pytest.raises(ValueError, match=r"set preference.negatives to 'beam'"):
        PreferenceConfig(refresh_every=10)
