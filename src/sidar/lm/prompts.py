"""The only place with prompt text: a request's parts become token ids.

A template is data.  History items enter as their SID tokens, everything else as text of the
backbone's own tokenizer, whose special tokens are switched off, so nothing that a user types can
become an SID token or a control token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sidar.lm.vocab import SidVocab
from sidar.types import Prompt, SemanticIds

if TYPE_CHECKING:
    from torch import Tensor

#: Sentence vectors that a prompt builder remembers.
MOST_VECTORS = 50_000
NO_READER = (
    "this model reads the sentence vector of each query (lm.geometry): give its prompt builder the "
    "encoder of embed.model, `model.prompts.reader = query_side(load_embedder(cfg.embed)).encode`"
)


@dataclass(frozen=True)
class Template:
    """The words around a request's parts. A part that is absent takes its words with it.

    Order: history, profile, the task's words, query, answer; the last token is where the first code
    is predicted.
    """

    tasks: Mapping[str, str]
    history: str
    profile: str
    answer: str


#: Few words on purpose: on a small decoder each one is a share of every training step.
TEMPLATES: dict[str, Template] = {
    "default": Template(
        tasks={"search": "search", "item": "product"}, history="history", profile="user", answer="="
    ),
}


class Encoded(list[int]):
    """A prompt's token ids, and the sentence vector (D,) of its query where a model reads one
    (lm/prior/geometry.py).
    """

    vector: np.ndarray | None = None


def vectors_of(prompts: Sequence[Sequence[int]]) -> Tensor | None:
    """(B, D) float32 sentence vectors that ``prompts`` bring along; None where any brings none."""
    import torch

    vectors = [
        np.asarray(prompt.vector, np.float32)
        for prompt in prompts
        if isinstance(prompt, Encoded) and prompt.vector is not None
    ]
    if not vectors or len(vectors) < len(prompts):
        return None
    return torch.from_numpy(np.stack(vectors))


class PromptBuilder:
    """Writes prompts for one tokenizer, vocabulary and template; pure, so equal prompts give equal
    tokens.

    At most ``max_tokens`` tokens: the query is cut last.  History gives way oldest item first and
    whole items at a time, after the profile's end has gone; only a query that alone exceeds the
    budget loses its own end.

    A model that reads sentence vectors (``vector_dim`` > 0) needs a ``reader``: query texts → (n,
    D), the encoder that made the items' vectors; whoever owns an encoder sets it.  Each distinct
    text is read once.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocab: SidVocab,
        template: str = "default",
        max_tokens: int = 96,
        history_items: int = 5,
        vector_dim: int = 0,
    ) -> None:
        if template not in TEMPLATES:
            raise ValueError(
                f"lm.template {template!r} is unknown; templates are {', '.join(TEMPLATES)}"
            )
        if vocab.text_vocab < len(tokenizer):
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens but the vocabulary counts "
                f"{vocab.text_vocab} text ids, so words would collide with SIDs; take the "
                "vocabulary of the model (`model.vocab`)"
            )
        self.tokenizer, self.vocab, self.template = tokenizer, vocab, TEMPLATES[template]
        self.max_tokens, self.history_items, self.vector_dim = max_tokens, history_items, vector_dim
        self.reader: Callable[[Sequence[str]], np.ndarray] | None = None
        self._read: dict[str, np.ndarray] = {}
        self._ids: dict[str, list[int]] = {}
        words = self.template
        self._learn([*words.tasks.values(), words.history, words.profile, words.answer])
        bos = getattr(tokenizer, "bos_token_id", None)
        self._bos = [] if bos is None else [int(bos)]
        self._task = {task: self._ids[text] for task, text in words.tasks.items()}
        self._answer, self._history = self._ids[words.answer], self._ids[words.history]
        self._profile = self._ids[words.profile]
        if max_tokens < (least := self._fixed + 1):
            raise ValueError(
                f"lm.max_prompt_tokens {max_tokens} leaves no room for a query; want at least "
                f"{least}"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> PromptBuilder:
        """A copied model shares its builder: it holds no weights, and a reader may be a whole
        encoder.
        """
        return self

    @property
    def _fixed(self) -> int:
        """Tokens that every prompt has, at most."""
        return len(self._bos) + max(map(len, self._task.values())) + len(self._answer)

    def encode(self, prompt: Prompt, sids: SemanticIds) -> Encoded:
        """Token ids of one prompt, SIDs as ``text_vocab + s``; history rows without an SID are
        passed over.
        """
        return self.encode_batch([prompt], sids)[0]

    def encode_batch(
        self, prompts: Sequence[Prompt], sids: SemanticIds, vectors: np.ndarray | None = None
    ) -> list[Encoded]:
        """:meth:`encode` of many prompts; texts not seen before go through the tokenizer in one
        call.

        ``vectors`` (n, D): their sentence vectors where the caller has them; else the ``reader``
        reads the queries, if the model wants them at all. ``ValueError`` where it does and there is
        no reader.
        """
        self.vocab.check_fits(sids, "the prompt builder's model")
        self._learn([text for p in prompts for text in (p.query, p.profile)])
        written = [Encoded(self._write(p, sids)) for p in prompts]
        if self.vector_dim:
            found = self.vectors([p.query for p in prompts]) if vectors is None else vectors
            for one, vector in zip(written, found, strict=True):
                one.vector = vector
        return written

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(n, D) float32 sentence vectors of query texts; those read before are remembered."""
        if self.reader is None:
            raise ValueError(NO_READER)
        new = [text for text in dict.fromkeys(texts) if text not in self._read]
        if len(self._read) + len(new) > MOST_VECTORS:  # a server's queries must not fill the memory
            self._read.clear()
            new = list(dict.fromkeys(texts))
        if new:
            found = np.asarray(self.reader(new), np.float32)
            if found.shape != (len(new), self.vector_dim):
                raise ValueError(
                    f"the reader gave vectors {found.shape} for {len(new)} queries, the model "
                    f"reads {self.vector_dim} dimensions; give it the encoder that the codebooks "
                    "were fitted to"
                )
            self._read.update(zip(new, found, strict=True))
        return (
            np.stack([self._read[text] for text in texts])
            if texts
            else np.zeros((0, self.vector_dim), np.float32)
        )

    def _write(self, prompt: Prompt, sids: SemanticIds) -> list[int]:
        try:
            task = self._task[prompt.task]
        except KeyError:
            raise ValueError(
                f"prompt task {prompt.task!r} is unknown; tasks are {', '.join(self._task)}"
            ) from None
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
        profile = (
            (self._profile + profile)[: max(room, 0)]
            if profile and room > len(self._profile)
            else []
        )
        return [*self._bos, *history, *profile, *task, *query, *self._answer]

    def _learn(self, texts: Sequence[str]) -> None:
        """Tokenise the texts that the cache lacks, in one call."""
        if len(self._ids) > 200_000:  # a server's queries must not fill the memory
            self._ids.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]
        if new:
            encoded = self.tokenizer(
                new,
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                verbose=False,
            )
            self._ids.update(zip(new, encoded["input_ids"], strict=True))
