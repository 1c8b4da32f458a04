"""Our DPO and GRPO against TRL's own trainers and loss code: the same tiny model, the same batch,
to 1e-5.

Ours scores the packed list with ``head="full"``; TRL sees an ordinary causal LM with the SID tokens
in its vocabulary, one row per (chosen, rejected) pair or per completion, and computes its loss as
it would in training.
"""

import pytest
import torch
from toy_train import tiny_model, toy_sids, write_backbone

from sidar.align import objective
from sidar.config import AlignConfig
from sidar.lm import Candidate, pack, score
from sidar.types import Prompt

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and transformers' own


def as_causal_lm(model):
    """A plain causal LM with the same weights: text rows, then SID rows, and one untied head over
    both.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    settings = {**model.backbone.config.to_dict(), "tie_word_embeddings": False}
    settings["vocab_size"] = model.text_vocab + model.vocab.size
    causal = Qwen3ForCausalLM(Qwen3Config(**settings)).eval()
    causal.model.load_state_dict(
        {**model.backbone.state_dict(), "embed_tokens.weight": _rows(model)}
    )
    words = model.backbone.get_input_embeddings().weight
    with torch.no_grad():
        causal.lm_head.weight.copy_(torch.cat([words, *model.heads, model.eos_head]))
    return causal


def _rows(model):
    return torch.cat([model.backbone.get_input_embeddings().weight, model.sid_in]).detach()


#: y_w*, then three others each, some sharing prefixes.
LISTS = [[5, 4, 12, 60], [17, 20, 16, 3]]


def moved(model, by=0.02):
    """The model away from where it was built, everywhere."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    return model


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo_is_trls_loss(tmp_path, beta):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    backbone = write_backbone(tmp_path / "backbone")
    policy, reference = (tiny_model(backbone, seed=s, head="full").eval() for s in (1, 2))
    moved(policy)
    sids = toy_sids()
    prompts = policy.prompts.encode_batch(
        [Prompt("cast iron pan"), Prompt("tent", history=(3, 40))], sids
    )
    candidates = [
        [Candidate(sids.tuple_of(r), i == 0, int(i == 0)) for i, r in enumerate(rows)]
        for rows in LISTS
    ]

    packed = pack(prompts, candidates, policy.vocab)
    scores = score(policy, packed)
    scores.ref_logp = score(reference, packed).logp
    ours, _ = objective("dpo").loss(scores, AlignConfig(beta=beta))

    def ids(codes):
        return [policy.text_vocab + t for t in policy.vocab.tokens(codes)]

    pairs = [
        {"prompt_ids": prompt, "chosen_ids": ids(listed[0].codes), "rejected_ids": ids(wrong.codes)}
        for prompt, listed in zip(prompts, candidates, strict=True)
        for wrong in listed[1:]
    ]
    trainer = DPOTrainer(
        model=as_causal_lm(policy),
        ref_model=as_causal_lm(reference),
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"),
            beta=beta,
            use_cpu=True,
            bf16=False,
            report_to=[],
            max_length=None,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=policy.tokenizer,
    )
    batch = trainer.data_collator(pairs)
    theirs = trainer.compute_loss(trainer.model.eval(), batch)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(ours.item() - 0.6931) > 1e-3  # not the trivial value of policy = reference


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """A policy, and two groups of four SIDs as we score them: rewards, an older policy and a
    reference; and the same as the tensors that TRL's trainer hands to its loss.
    """
    backbone = write_backbone(tmp_path_factory.mktemp("trl") / "backbone")
    policy, older = (tiny_model(backbone, seed=1, head="full").eval() for _ in range(2))
    reference = tiny_model(backbone, seed=2, head="full").eval()
    moved(policy, by=0.1)  # far enough that some ratios are clipped
    prompts = policy.prompts.encode_batch(
        [Prompt("cast iron pan"), Prompt("tent", history=(3, 40))], toy_sids()
    )
    candidates = [
        [Candidate(toy_sids().tuple_of(r), i == 0, int(i == 0)) for i, r in enumerate(rows)]
        for rows in LISTS
    ]
    packed = pack(prompts, candidates, policy.vocab)
    scores = score(policy, packed)
    with torch.no_grad():
        scores.old_logp, scores.ref_logp = (score(m, packed).logp for m in (older, reference))
    scores.rollout = torch.ones_like(scores.is_positive)
    scores.is_negative = torch.zeros_like(scores.is_positive)
    scores.reward = torch.tensor([[1.0, 0.1, 0.5, 0.1], [0.0, 1.0, 1.0, 0.1]])

    width = max(map(len, prompts))
    padded = [[0] * (width - len(p)) + p for p in prompts for _ in range(4)]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts for _ in range(4)]
    codes = [c.codes for listed in candidates for c in listed]
    completions = [[policy.text_vocab + t for t in policy.vocab.tokens(each)] for each in codes]
    inputs = {
        "prompt_ids": torch.tensor(padded),
        "prompt_mask": torch.tensor(mask),
        "completion_ids": torch.tensor(completions),
        "completion_mask": torch.ones(8, 3, dtype=torch.long),
        "old_per_token_logps": scores.old_logp[..., :3].reshape(8, 3),
        "ref_per_token_logps": scores.ref_logp[..., :3].reshape(8, 3),
        "num_items_in_batch": torch.tensor(24),
    }
    return policy, scores, inputs


def trls_loss(policy, inputs, reward, folder, scale_rewards="group", **options):
    """TRL's loss, its advantages included, under ``GRPOConfig(**options)``."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import nanstd

    trainer = GRPOTrainer(
        model=as_causal_lm(policy),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=3,
            scale_rewards=scale_rewards,
            use_bias_correction_kl=False,  # GRPO's KL term, not that term times the ratio
            **options,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a"}]),
        processing_class=policy.tokenizer,
    )
    advantage = reward - reward.mean(1, keepdim=True)
    if trainer.scale_rewards == "group":
        advantage = advantage / (nanstd(reward, dim=1).unsqueeze(1) + 1e-4)
    trainer.model.eval()  # no accumulation, as in one step of training
    return trainer.compute_loss(trainer.model, {**inputs, "advantages": advantage.reshape(-1)})


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("grpo", {}, {"loss_type": "grpo", "beta": 1e-3}),
        ("grpo", {"kl": 0.5}, {"loss_type": "grpo", "beta": 0.5}),
        ("dapo", {}, {"loss_type": "dapo", "beta": 0.0, "epsilon_high": 0.28}),
        ("dapo", {"kl": 0.2}, {"loss_type": "dapo", "beta": 0.2, "epsilon_high": 0.28}),
        ("drgrpo", {}, {"loss_type": "dr_grpo", "beta": 0.0, "scale_rewards": "none"}),
        (
            "gspo",
            {},
            {"loss_type": "grpo", "beta": 0.0, "importance_sampling_level": "sequence"},
        ),
    ],
)
def test_the_grpo_family_is_trls_loss(groups, tmp_path, name, ours, theirs):
    policy, scores, inputs = groups
    parts = objective(name).parts(scores, AlignConfig(grpo=ours), None)
    want = trls_loss(policy, inputs, scores.reward, tmp_path, **theirs)
    assert parts.contrast.item() == pytest.approx(want.item(), abs=1e-5)
    assert abs(want.item()) > 1e-3  # not the trivial value of policy = old policy
    assert 0 < parts.logs["ratio/clipped"] < 1
