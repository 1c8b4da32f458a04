"""The loop: continuing is repeating, accumulation changes nothing, and what is written down is
right.
"""

import json
import math
import shutil

import pytest
import torch
from torch import nn
from toy_train import align_task, quick, sft_task, tiny_model, write_backbone

from sidar.align import names, objective
from sidar.config import AlignConfig, LoraConfig, OptimConfig, SftConfig
from sidar.fitting import checkpoint
from sidar.train import loop
from sidar.train.loop import fit


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"))


def run(task, cfg, work, seed=0, **kwargs):
    return fit(
        task,
        cfg,
        seed=seed,
        device="cpu",
        work=work,
        identity={"cfg": 1},
        title="toy",
        progress=False,
        **kwargs,
    )


def state(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


class Killed(Exception):
    pass


def interrupt(task, at):
    """The task dies when asked for the batch of step ``at``."""
    original = task.batch

    def batch(step):
        if step == at:
            raise Killed
        return original(step)

    task.batch = batch
    return task


@pytest.mark.parametrize("kind", ["sft", "raddpo", "dpo"])
def test_resuming_repeats_what_would_have_happened(tmp_path, backbone, kind):
    def task():
        model = tiny_model(backbone)
        return sft_task(model) if kind == "sft" else align_task(model, cfg)

    cfg = quick(SftConfig if kind == "sft" else AlignConfig)
    if kind != "sft":
        cfg = cfg.model_copy(update={"objective": kind, "rdrw_window": 64})
    whole = task()
    straight = run(whole, cfg, tmp_path / "whole")
    # dies after the checkpoint of step 8, then restarts from 8, then from 4 after damage
    for at in (10, 6):
        with pytest.raises(Killed):
            run(interrupt(task(), at), cfg, tmp_path / "cut")
        if at == 6:
            break
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000008")
    again = task()
    resumed = run(again, cfg, tmp_path / "cut")
    assert resumed.resumed_from == 4
    assert equal(state(whole.model), state(again.model))
    assert (resumed.best, resumed.final, resumed.counts, resumed.loss) == (
        straight.best,
        straight.final,
        straight.counts,
        straight.loss,
    )
    assert whole.state_dict() == again.state_dict()
    logs = [
        [json.loads(line) for line in (tmp_path / d / "log.jsonl").read_text().splitlines()]
        for d in ("whole", "cut")
    ]
    timeless = [
        [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_s")} for r in log]
        for log in logs
    ]
    assert [(r["kind"], r["step"]) for r in timeless[0]] == [
        (r["kind"], r["step"]) for r in timeless[1]
    ]
    valid = [[r for r in log if r["kind"] == "valid"] for log in timeless]
    assert valid[0] == valid[1]


def test_a_run_that_died_before_its_first_checkpoint_leaves_nothing_in_the_log(tmp_path, backbone):
    def task():
        return align_task(tiny_model(backbone), quick(AlignConfig, objective="sft"))

    with pytest.raises(Killed):
        run(interrupt(task(), 3), quick(steps=4), tmp_path, validate_first=True)
    run(task(), quick(steps=4), tmp_path, validate_first=True)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(r["kind"], r["step"]) for r in records] == [
        ("valid", 0),
        ("train", 3),
        ("train", 4),
        ("valid", 4),
    ]


def test_a_finished_run_that_is_called_again_trains_nothing(tmp_path, backbone):
    first = sft_task(tiny_model(backbone))
    run(first, quick(), tmp_path)
    second = sft_task(tiny_model(backbone))
    report = run(interrupt(second, -1), quick(), tmp_path)
    assert report.resumed_from == 12
    assert equal(state(first.model), state(second.model))


def test_a_damaged_newest_checkpoint_leads_to_the_same_weights(tmp_path, backbone):
    first = sft_task(tiny_model(backbone))
    run(first, quick(), tmp_path)
    path = tmp_path / "checkpoints" / "step-00000012" / checkpoint.MOMENTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    second = sft_task(tiny_model(backbone))
    with pytest.warns(RuntimeWarning, match="falling back"):
        report = run(second, quick(), tmp_path)
    assert report.resumed_from == 8
    assert equal(state(first.model), state(second.model))


def test_other_settings_are_refused(tmp_path, backbone):
    run(sft_task(tiny_model(backbone)), quick(steps=4), tmp_path)
    with pytest.raises(ValueError, match="cfg: 1 -> 2"):
        fit(
            sft_task(tiny_model(backbone)),
            quick(steps=4),
            seed=0,
            device="cpu",
            work=tmp_path,
            identity={"cfg": 2},
            title="toy",
            progress=False,
        )


@pytest.mark.parametrize("kind", ["sft", "simpo+sft"])
def test_accumulation_gives_the_same_step(tmp_path, backbone, kind):
    weights = []
    for accumulate in (1, 4):
        model = tiny_model(backbone)
        cfg = quick(
            AlignConfig, steps=2, accumulate=accumulate, objective="simpo+sft", item_share=0.0
        )
        task = sft_task(model) if kind == "sft" else align_task(model, cfg)
        run(task, cfg, tmp_path / str(accumulate))
        weights.append(state(model))
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", [n for n in names() if not objective(n).needs_rollouts])
def test_every_objective_trains_and_logs(tmp_path, backbone, name):
    model = tiny_model(backbone)
    before = state(model)
    cfg = quick(
        AlignConfig, objective=name, steps=6, rdrw_window=32, lr_new=1e-3, lr_pretrained=1e-3
    )
    report = run(align_task(model, cfg), cfg, tmp_path, validate_first=True)
    assert not equal(before, state(model))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "valid"] == [0, 6]
    train = [r for r in records if r["kind"] == "train"]
    wanted = {
        "loss",
        "grad_norm",
        "lr",
        "pairs/shared1",
        "pairs/shared2",
        "logp/other_positives",
        "first/entropy",
    }
    assert wanted <= set(train[-1])
    assert ("rdrw/weight_mean" in train[-1]) == name.startswith("raddpo")
    both = name.startswith("raddpo") or "+sft" in name or name == "orpo"
    assert (report.gradient_ratio is not None) == both
    assert 0 < report.counts["lists_without_negatives"] < report.counts["lists"] <= 6 * 16
    assert any((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("name", ["raddpo", "sdpo", "orpo+sft"])
def test_batches_without_any_list_train_the_item_rows(tmp_path, backbone, name):
    cfg = quick(AlignConfig, objective=name, item_share=0.95, batch_size=2, steps=10)
    task = align_task(tiny_model(backbone), cfg)
    assert any(not any(x.is_list for x in task.batch(step)) for step in range(10))
    report = run(task, cfg, tmp_path)
    assert report.loss == report.loss  # not NaN
    assert all(torch.isfinite(p).all() for p in task.model.parameters())


def test_the_best_model_is_the_one_that_validated_best(tmp_path, backbone):
    from sidar.lm import SidLM

    task = sft_task(tiny_model(backbone))
    scores = iter(
        [
            {"recall@8": 0.5, "nll": 2.0},
            {"recall@8": 0.9, "nll": 3.0},
            {"recall@8": 0.9, "nll": 3.5},
        ]
    )
    kept = []

    def validate():
        kept.append(state(task.model))
        return next(scores)

    task.validate = validate
    report = run(task, quick(validate_every=4), tmp_path)
    assert (report.best["step"], report.final["step"]) == (8, 12)
    assert json.loads((tmp_path / "best" / "step.json").read_text()) == {"step": 8}
    assert equal(kept[1], state(SidLM.from_pretrained(tmp_path / "best")))


def test_without_validation_the_final_model_is_the_best_and_no_figure_is_written(
    tmp_path, backbone
):
    from sidar.lm import SidLM

    task = sft_task(tiny_model(backbone))
    task.validate = dict
    report = run(task, quick(validate_every=4), tmp_path)
    assert report.best == report.final == {"step": 12}
    assert equal(state(task.model), state(SidLM.from_pretrained(tmp_path / "best")))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in records} == {"train"}


def test_lora_trains_adapters_and_sid_rows_only_and_resumes(tmp_path, backbone):
    lora = LoraConfig(r=4, alpha=8)
    model = tiny_model(backbone, lora=lora)
    before = state(model)
    cfg = quick(steps=8)
    run(sft_task(model), cfg, tmp_path / "a")
    moved = {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}
    assert moved
    assert all("lora_" in n or n == "sid_in" or n.startswith(("heads", "eos_head")) for n in moved)
    stored = checkpoint.newest(tmp_path / "a" / "checkpoints")
    assert (stored.path / checkpoint.WEIGHTS).stat().st_size < sum(
        p.numel() * 4 for p in model.parameters()
    ) / 2
    with pytest.raises(Killed):
        run(interrupt(sft_task(tiny_model(backbone, lora=lora)), 6), cfg, tmp_path / "b")
    again = tiny_model(backbone, lora=lora)
    run(sft_task(again), cfg, tmp_path / "b")
    assert equal(state(model), state(again))


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step(tmp_path, backbone):
    model = tiny_model(backbone)
    with torch.no_grad():
        model.sid_in.fill_(float("nan"))
    with pytest.raises(ValueError, match="step 1 has loss nan"):
        run(sft_task(model), quick(), tmp_path)


def test_batches_that_do_not_divide_are_refused(tmp_path, backbone):
    with pytest.raises(ValueError, match="multiple of 1 processes x 3"):
        run(sft_task(tiny_model(backbone)), quick(accumulate=3), tmp_path)


def test_the_callers_random_state_is_left_alone(tmp_path, backbone):
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    run(sft_task(tiny_model(backbone)), quick(steps=2), tmp_path)
    assert torch.equal(torch.rand(3), want)


def test_alignment_switches_dropout_off(tmp_path, backbone):
    model = tiny_model(backbone).train()
    task = align_task(model, quick(AlignConfig, objective="sft"))
    task.batch(0)
    assert not any(m.training for m in model.modules())


#: Two settings of every option of the loop, with the learning-rate factors of their steps.
LOOPS = [
    (
        {
            "steps": 8,
            "batch_size": 12,
            "accumulate": 3,
            "lr_new": 0.004,
            "lr_pretrained": 0.0015,
            "weight_decay": 0.3,
            "warmup": 0.25,
            "schedule": "linear",
            "clip": 0.05,
            "precision": "bf16",
            "validate_every": 3,
            "checkpoint_every": 5,
            "keep_checkpoints": 1,
            "log_every": 4,
        },
        [1 / 2, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
    ),
    (
        {
            "steps": 4,
            "batch_size": 8,
            "accumulate": 1,
            "lr_new": 0.001,
            "lr_pretrained": 0.005,
            "weight_decay": 0.1,
            "warmup": 0.0,
            "schedule": "cosine",
            "clip": 0.0,
            "precision": "fp32",
            "validate_every": 2,
            "checkpoint_every": 1,
            "keep_checkpoints": 3,
            "log_every": 3,
        },
        [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)],
    ),
]


@pytest.mark.parametrize(("settings", "factors"), LOOPS, ids=["linear", "cosine"])
def test_every_option_of_the_loop_is_followed(tmp_path, backbone, monkeypatch, settings, factors):
    of_stages = {"valid_requests", "valid_beam"}  # test_train_wiring.py
    assert set(settings) | of_stages == set(OptimConfig.model_fields)
    packed, precisions, limits, steps, checks = [], set(), set(), [], []
    pack, autocast, clip, step = (
        loop.pack,
        loop.autocast,
        nn.utils.clip_grad_norm_,
        torch.optim.AdamW.step,
    )
    model = tiny_model(backbone)
    matrix = model.backbone.layers[0].mlp.up_proj.weight

    def watched_pack(prompts, *rest):
        packed.append(len(prompts))
        return pack(prompts, *rest)

    def watched_autocast(device, precision):
        precisions.add(precision)
        return autocast(device, precision)

    def watched_clip(parameters, limit):
        limits.add(limit)
        return clip(parameters, limit)

    def watched_step(self):
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        new, old = groups[id(model.sid_in)], groups[id(matrix)]
        steps.append((new["lr"], old["lr"], new["weight_decay"], old["weight_decay"]))
        return step(self)

    monkeypatch.setattr(loop, "pack", watched_pack)
    monkeypatch.setattr(loop, "autocast", watched_autocast)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", watched_clip)
    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    task = sft_task(model, batch_size=settings["batch_size"])

    def validate():
        checks.append(len(steps))
        return {"recall@8": 0.0, "nll": 1.0}

    task.validate = validate
    cfg = OptimConfig(**settings)
    run(task, cfg, tmp_path)
    size = cfg.batch_size // cfg.accumulate
    assert packed == [size] * (cfg.steps * cfg.accumulate)
    assert precisions == {cfg.precision}
    assert limits == {cfg.clip or math.inf}
    lrs = [(cfg.lr_new * factor, cfg.lr_pretrained * factor) for factor in factors]
    assert [pair[:2] for pair in steps] == [pytest.approx(pair) for pair in lrs]
    # only matrices inside the blocks decay
    assert {pair[2:] for pair in steps} == {(0.0, cfg.weight_decay)}

    def every(period):
        return [*range(period, cfg.steps, period), cfg.steps]

    assert checks == every(cfg.validate_every)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "train"] == every(cfg.log_every)
    kept = [f"step-{step:08d}" for step in every(cfg.checkpoint_every)[-cfg.keep_checkpoints :]]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept
