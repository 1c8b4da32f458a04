"""The only place with prompt text: a request's parts become token ids.

A template is data.  History items enter as their SID tokens, everything else as text of the backbone's own tokenizer,
whose special tokens are switched off, so nothing that a user types can become an SID token or a control token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidar.lm.vocab import SidVocab
from sidar.types import Prompt, SemanticIds


@dataclass(frozen=True)
class Template:
    """The words around a request's parts. A part that is absent takes its words with it.

    Order: history, profile, the task's words, query, answer; the last token is where the first code is predicted.
    """

    tasks: Mapping[str, str]
    history: str
    profile: str
    answer: str


#: Few words on purpose: on a small decoder each one is a share of every training step.
TEMPLATES: dict[str, Template] = {
    "default": Template(tasks={"search": "search", "item": "product"}, history="history", profile="user", answer="="),
}


class PromptBuilder:
    """Writes prompts for one tokenizer, vocabulary and template; pure, so equal prompts give equal tokens.

    At most ``max_tokens`` tokens: the query is cut last.  History gives way oldest item first and whole items at a
    time, after the profile's end has gone; only a query that alone exceeds the budget loses its own end.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocab: SidVocab,
        template: str = "default",
        max_tokens: int = 96,
        history_items: int = 5,
    ) -> None:
        if template not in TEMPLATES:
            raise ValueError(f"lm.template {template!r} is unknown; templates are {', '.join(TEMPLATES)}")
        if vocab.text_vocab < len(tokenizer):
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens but the vocabulary counts {vocab.text_vocab} text ids, so "
                "words would collide with SIDs; take the vocabulary of the model (`model.vocab`)"
            )
        self.tokenizer, self.vocab, self.template = tokenizer, vocab, TEMPLATES[template]
        self.max_tokens, self.history_items = max_tokens, history_items
        self._ids: dict[str, list[int]] = {}
        words = self.template
        self._learn([*words.tasks.values(), words.history, words.profile, words.answer])
        bos = getattr(tokenizer, "bos_token_id", None)
        self._bos = [] if bos is None else [int(bos)]
        self._task = {task: self._ids[text] for task, text in words.tasks.items()}
        self._answer, self._history = self._ids[words.answer], self._ids[words.history]
        self._profile = self._ids[words.profile]
        if max_tokens < (least := self._fixed + 1):
            raise ValueError(f"lm.max_prompt_tokens {max_tokens} leaves no room for a query; want at least {least}")

    @property
    def _fixed(self) -> int:
        """Tokens that every prompt has, at most."""
        return len(self._bos) + max(map(len, self._task.values())) + len(self._answer)

    def encode(self, prompt: Prompt, sids: SemanticIds) -> list[int]:
        """Token ids of one prompt, SIDs as ``text_vocab + s``; history rows without an SID are passed over."""
        return self.encode_batch([prompt], sids)[0]

    def encode_batch(self, prompts: Sequence[Prompt], sids: SemanticIds) -> list[list[int]]:
        """:meth:`encode` of many prompts; texts not seen before go through the tokenizer in one call."""
        self.vocab.check_fits(sids, "the prompt builder's model")
        self._learn([text for p in prompts for text in (p.query, p.profile)])
        return [self._write(p, sids) for p in prompts]

    def _write(self, prompt: Prompt, sids: SemanticIds) -> list[int]:
        try:
            task = self._task[prompt.task]
        except KeyError:
            raise ValueError(f"prompt task {prompt.task!r} is unknown; tasks are {', '.join(self._task)}") from None
        room = self.max_tokens - len(self._bos) - len(task) - len(self._answer)
        query = self._ids[prompt.query][:room]
        room -= len(query)
        kept: list[list[int]] = []
        history_room = room - len(self._history)
        for row in reversed(prompt.history):  # most recent first: the oldest give way
            tokens = [self.vocab.text_vocab + t for t in self.vocab.tokens(sids.tuple_of(row))]
            if len(kept) == self.history_items or len(tokens) > history_room:
                break
            if tokens:
                kept.append(tokens)
                history_room -= len(tokens)
        history = [t for tokens in reversed(kept) for t in tokens]  # written oldest first
        if history:
            history = self._history + history
            room -= len(history)
        profile = self._ids[prompt.profile]
        profile = (self._profile + profile)[: max(room, 0)] if profile and room > len(self._profile) else []
        return [*self._bos, *history, *profile, *task, *query, *self._answer]

    def _learn(self, texts: Sequence[str]) -> None:
        """Tokenise the texts that the cache lacks, in one call."""
        if len(self._ids) > 200_000:  # a server's queries must not fill the memory
            self._ids.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]
        if new:
            encoded = self.tokenizer(
                new, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
            )
            self._ids.update(zip(new, encoded["input_ids"], strict=True))
