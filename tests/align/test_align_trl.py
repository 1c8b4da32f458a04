"""Our DPO against TRL's own trainer and loss code: the same tiny model, the same batch, to 1e-5.

Ours scores the packed list with ``head="full"``; TRL sees an ordinary causal LM with the SID tokens
in its vocabulary, one row per (chosen, rejected) pair, and computes its loss as it would in
training.
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


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo_is_trls_loss(tmp_path, beta):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    backbone = write_backbone(tmp_path / "backbone")
    policy, reference = (tiny_model(backbone, seed=s, head="full").eval() for s in (1, 2))
    with torch.no_grad():  # a policy that has moved away from its reference everywhere
        for p in policy.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    sids = toy_sids()
    prompts = policy.prompts.encode_batch(
        [Prompt("cast iron pan"), Prompt("tent", history=(3, 40))], sids
    )
    # y_w*, then three negatives each, some sharing prefixes
    lists = [[5, 4, 12, 60], [17, 20, 16, 3]]
    candidates = [
        [Candidate(sids.tuple_of(r), i == 0, int(i == 0)) for i, r in enumerate(rows)]
        for rows in lists
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
