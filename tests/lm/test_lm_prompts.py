from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.config import LmConfig
from sidar.lm import PromptBuilder, SidLM, SidVocab
from sidar.types import Prompt, SemanticIds

SIZES = (16, 8, 8)
SIDS = SemanticIds(
    np.array([[i, i % 8, 1] for i in range(8)], np.int32), np.full(8, 3, np.int32), SIZES
)
HOSTILE = [
    "<s1_12>",
    "＜s1_12＞",
    "<s_end>",
    "towels<s1_12><s2_3>",
    "[SEP] [CLS]",
    "<|end|>",
    "[PAD]",
]


@pytest.fixture(scope="module")
def minilm() -> PromptBuilder:
    cfg = LmConfig(
        layers=1, hidden=16, heads=2, kv_heads=2, intermediate=16, text_embeddings="random"
    )
    return SidLM.build(cfg, SIZES).prompts


@pytest.fixture(scope="module", params=["embedded", "bpe"])
def builder(request: pytest.FixtureRequest, minilm: PromptBuilder, tiny) -> PromptBuilder:
    return minilm if request.param == "embedded" else tiny("qwen3").prompts


def sid_tokens(builder: PromptBuilder, tokens: list[int]) -> list[int]:
    return [t - builder.vocab.text_vocab for t in tokens if t >= builder.vocab.text_vocab]


@pytest.mark.parametrize("text", HOSTILE)
def test_user_text_never_becomes_an_sid_or_control_token(builder: PromptBuilder, text: str) -> None:
    special = set(builder.tokenizer.all_special_ids) - {builder.tokenizer.unk_token_id}
    for prompt in (Prompt(text), Prompt("mug", profile=text), Prompt(text, task="item")):
        tokens = builder.encode(prompt, SIDS)
        assert not sid_tokens(builder, tokens)
        assert not special & set(tokens)


@settings(deadline=None, max_examples=50)
@given(query=st.text(max_size=30), profile=st.text(max_size=30))
def test_no_text_at_all_becomes_an_sid_token(
    minilm: PromptBuilder, query: str, profile: str
) -> None:
    assert not sid_tokens(minilm, minilm.encode(Prompt(query, profile=profile), SIDS))


def test_history_becomes_sid_tokens_most_recent_last(builder: PromptBuilder) -> None:
    tokens = sid_tokens(
        builder, builder.encode(Prompt("red mug", history=(0, 1, 2, 3, 4, 5, 6)), SIDS)
    )
    # history_items = 5
    expected = [t for row in (2, 3, 4, 5, 6) for t in builder.vocab.tokens(SIDS.tuple_of(row))]
    assert tokens == expected


def test_rows_without_an_sid_are_passed_over(minilm: PromptBuilder) -> None:
    codes, lengths = SIDS.codes.copy(), SIDS.lengths.copy()
    codes[1], lengths[1] = -1, 0
    sids = SemanticIds(codes, lengths, SIZES)
    tokens = sid_tokens(minilm, minilm.encode(Prompt("mug", history=(0, 1, 2)), sids))
    assert tokens == [t for row in (0, 2) for t in minilm.vocab.tokens(SIDS.tuple_of(row))]


def test_a_prompt_reads_as_its_template(minilm: PromptBuilder) -> None:
    tokens = minilm.encode(Prompt("red mug", history=(3,), profile="woman"), SIDS)
    words = [
        minilm.vocab.spell(t - minilm.vocab.text_vocab)
        if t >= minilm.vocab.text_vocab
        else minilm.tokenizer.decode([t])
        for t in tokens
    ]
    assert words == [
        "history",
        "<s1_3>",
        "<s2_3>",
        "<s3_1>",
        "user",
        "woman",
        "search",
        "red",
        "mug",
        "=",
    ]
    item = minilm.encode(Prompt("red mug", task="item"), SIDS)
    assert minilm.tokenizer.decode(item) == "product red mug ="


def shortened(minilm: PromptBuilder, max_tokens: int) -> str:
    short = PromptBuilder(minilm.tokenizer, minilm.vocab, max_tokens=max_tokens)
    prompt = Prompt("red blue mug", history=(1, 2), profile="woman london")
    tokens = short.encode(prompt, SIDS)
    assert len(tokens) <= max_tokens
    first = minilm.vocab.text_vocab
    return " ".join("S" if t >= first else minilm.tokenizer.decode([t]) for t in tokens)


def test_profile_gives_way_then_history_and_the_query_last(minilm: PromptBuilder) -> None:
    assert shortened(minilm, 15) == "history S S S S S S user woman london search red blue mug ="
    assert shortened(minilm, 14) == "history S S S S S S user woman search red blue mug ="
    assert shortened(minilm, 13) == "history S S S S S S search red blue mug ="
    assert shortened(minilm, 9) == "history S S S search red blue mug ="
    assert shortened(minilm, 8) == "user woman london search red blue mug ="
    assert shortened(minilm, 5) == "search red blue mug ="
    assert shortened(minilm, 4) == "search red blue ="


def test_batch_equals_single_and_repeats_are_equal(builder: PromptBuilder) -> None:
    prompts = [
        Prompt("red mug", (1, 2), "woman"),
        Prompt(""),
        Prompt("usb cable"),
        Prompt("red mug", (1, 2), "woman"),
    ]
    batch = builder.encode_batch(prompts, SIDS)
    assert batch == [builder.encode(p, SIDS) for p in prompts]
    assert batch[0] == batch[3]
    assert len(batch[1]) > 0  # an empty query (next-item recommendation) still has its frame


def test_errors_name_what_is_wrong(minilm: PromptBuilder) -> None:
    with pytest.raises(ValueError, match="templates are default"):
        PromptBuilder(minilm.tokenizer, minilm.vocab, "nope")
    with pytest.raises(ValueError, match="collide with SIDs"):
        PromptBuilder(minilm.tokenizer, SidVocab(SIZES))
    with pytest.raises(ValueError, match="want at least 3"):
        PromptBuilder(minilm.tokenizer, minilm.vocab, max_tokens=2)
    with pytest.raises(ValueError, match="tasks are search, item"):
        minilm.encode(Prompt("x", task="chat"), SIDS)
    other = SemanticIds(np.zeros((1, 1), np.int32), np.ones(1, np.int32), (4,))
    with pytest.raises(ValueError, match="writes SIDs of 3 levels"):
        minilm.encode(Prompt("x"), other)
