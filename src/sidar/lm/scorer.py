"""LmScorer: a :class:`SidLM` as decode's scorer, made for wide beams.

One prefill per prompt, shared by all beams; one row per beam and step; a head that is sliced to the
level's codebook.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sidar.lm.beams.graphs import StaticDecoder
from sidar.lm.beams.lean import LeanDecoder
from sidar.lm.beams.products import joined_rows
from sidar.lm.beams.tree import TreeDecoder
from sidar.lm.model import SidLM
from sidar.lm.prior.geometry import Prior
from sidar.lm.prompts import vectors_of
from sidar.precision import DecodePrecision, use_bf16

#: Log-probs of a full head that exist at a time while a level is cut out of them: 16 MB, and the
#: cache stays warm.
CHUNK = 1 << 22


@dataclass
class LmState:
    """A search under way: the engine's state and what the prompts' ends say."""

    end: Tensor  # (Q, d) states that predict the first code
    engine: Any  # LeanState or TreeState
    prior: Prior | None = None  # what the sentence vectors say of every prefix
    ids: dict[int, Tensor] = field(
        default_factory=dict
    )  # depth -> (Q, W) prefix ids of the rows, where there is a prior


class LmScorer:
    """Scores SID prefixes with the weights that ``model`` has *now*; after training steps call
    :meth:`refresh`.

    ``precision``: ``fp32``; ``bf16`` for the products inside the blocks (norms, softmax and heads
    stay fp32, so scores do not tie); ``int8`` for the same products with weights and states of
    eight bits (:mod:`sidar.lm.beams.products`; the lean engine on a CPU, else ``ValueError``);
    ``auto`` = bf16 where the device computes it natively.
    ``engine``: ``lean`` for Llama-like decoders (copies their weights, fused), ``tree`` for
    anything else, ``auto`` picks; ``graphs`` = lean with static shapes, recorded as CUDA graphs on
    a GPU.  Holds no search (but ``graphs``, which has memory for one): any number of threads may
    use one scorer, though none while another one refreshes it.
    """

    def __init__(
        self,
        model: SidLM,
        *,
        precision: DecodePrecision = "fp32",
        engine: Literal["auto", "lean", "tree", "graphs"] = "auto",
    ) -> None:
        self.vocab = model.vocab
        self.codebook_sizes = self.vocab.codebook_sizes
        self.variable_length = self.vocab.variable_length
        self.device = model.device
        self.head = model.config.head
        misfit = LeanDecoder.misfit(model.backbone)
        if precision == "int8":
            wish = "engine='tree' multiplies as the model does" if engine == "tree" else None
            _check_int8(self.device, misfit or wish)
            dtype = torch.int8
        else:
            bf16 = use_bf16(self.device, precision)
            dtype = torch.bfloat16 if bf16 else torch.float32
        if engine in ("lean", "graphs") and misfit:
            raise ValueError(
                f"the {engine} engine does not fit this backbone: {misfit}; use engine='tree' or "
                "'auto'"
            )
        self.engine: LeanDecoder | TreeDecoder
        self._model = model
        if engine == "tree" or misfit:
            self.engine = TreeDecoder(model, dtype)
        else:
            decoder = StaticDecoder if engine == "graphs" else LeanDecoder
            self.engine = decoder(model.backbone, dtype)
        with torch.no_grad():
            self._sid_in = model.sid_in.detach().clone()
            self._heads = self._fused_heads()

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the weights that the model has now, as a new scorer would, into the same memory.

        What is not fused (text embeddings, the geometry, all of the tree engine) is the model's own
        and is read where it stands, so between a change of the model and this call answers mix old
        weights with new ones. Searches that are under way end before; their states are void.
        """
        if isinstance(self.engine, LeanDecoder):
            self.engine.refresh()
        self._sid_in.copy_(self._model.sid_in)
        self._heads = self._fused_heads(self._heads)

    def _fused_heads(self, old: Sequence[Tensor | None] | None = None) -> list[Tensor]:
        """Per level the fp32 head of its choice set, in the memory of ``old``, the final norm of
        the lean engine folded in; with a full head the same one for all.
        """
        model, levels = self._model, self.vocab.n_levels
        old = [None] * levels if old is None else old
        norm = self.engine.final_norm if isinstance(self.engine, LeanDecoder) else 1.0
        if self.head == "full":
            text = model.word_embeddings if model.text_head is None else model.text_head
            parts = [text, *model.heads, model.eos_head]
            return [joined_rows(parts, norm, torch.float32, old[0])] * levels
        heads = []
        for depth, head in enumerate(model.heads):
            parts = [head, model.eos_head] if self.vocab.has_eos(depth) else [head]
            rows = joined_rows(parts, norm, torch.float32, old[depth])
            heads.append(rows.mul_(model.head_scale))
        return heads

    def reading(self, model: SidLM) -> LmScorer:
        """Return a scorer of these weights that reads prompts as ``model``, which has the same."""
        other = copy.copy(self)
        other._model = model
        return other

    # ------------------------------------------------------------------ Scorer

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]]) -> LmState:
        """Token lists (SIDs as ``text_vocab + s``), any lengths.

        ``ValueError`` names an empty one.
        """
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        if not len(prompts) or int(lengths.min()) == 0:
            raise ValueError(
                f"prompt {int(lengths.argmin()) if len(prompts) else 0} is empty; a prompt has ≥ "
                "1 token"
            )
        padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = torch.as_tensor(prompt)
        tokens, lengths = padded.to(self.device), lengths.to(self.device)
        model, prior, vectors = self._model, None, None
        if model.geometry is not None:
            vectors = model.checked(vectors_of(prompts)).to(self.device)
            prior = model.geometry.prior(vectors)
        at = torch.arange(len(prompts), device=self.device) * tokens.shape[1] + lengths - 1
        if isinstance(self.engine, LeanDecoder):
            return LmState(*self.engine.prefill(model.embed(tokens, vectors, at), lengths), prior)
        return LmState(*self.engine.prefill(tokens, lengths, vectors), prior)

    def first(self, state: LmState) -> Tensor:
        return self._level_logp(state.end, 0, state)

    def extend(self, state: LmState, parents: Tensor, codes: Tensor, depth: int) -> Tensor:
        self._follow(state, parents, codes, depth)
        hidden = self._after(state, parents, self.vocab.offsets[depth - 1] + codes, depth)
        return self._level_logp(hidden, depth, state)

    # ------------------------------------------------------------------ FreeScorer

    def free_columns(self, depth: int) -> tuple[Tensor, int]:
        size = self.codebook_sizes[depth]
        codes = torch.arange(size, device=self.device)
        ends = self.vocab.has_eos(depth)
        if self.head == "level":
            return F.pad(codes, (0, int(ends)), value=-1), size if ends else -1
        start = self.vocab.text_vocab + self.vocab.offsets[depth]
        total = self.vocab.text_vocab + self.vocab.size
        return F.pad(
            codes, (start, total - start - size), value=-1
        ), total - 1 if self.variable_length else -1

    def free_first(self, state: LmState) -> Tensor:
        return self._logp(state.end, 0, state)

    def free_extend(self, state: LmState, parents: Tensor, columns: Tensor, depth: int) -> Tensor:
        shift = self.vocab.offsets[depth - 1] if self.head == "level" else -self.vocab.text_vocab
        self._follow(state, parents, columns, depth)
        return self._logp(self._after(state, parents, columns + shift, depth), depth, state)

    # ------------------------------------------------------------------ inside

    @torch.inference_mode()
    def _after(self, state: LmState, parents: Tensor, tokens: Tensor, depth: int) -> Tensor:
        """(Q, W, d) states after rows whose last SID token is ``tokens`` (Q, W); < 0 = a text
        token.
        """
        mixed = tokens + self.vocab.text_vocab
        if isinstance(self.engine, LeanDecoder):
            embedded = (
                self._model.embed_tokens(mixed)
                if self.head == "full"
                else F.embedding(tokens, self._sid_in)
            )
            return self.engine.step(state.engine, embedded, parents, depth)
        return self.engine.step(state.engine, mixed, parents, depth)

    @torch.inference_mode()
    def _logp(self, hidden: Tensor, depth: int, state: LmState) -> Tensor:
        """(Q, V) or (Q, W, V) fp32 log-softmax of the whole choice set: the level's columns, or
        with a full head all tokens."""
        logits = F.linear(hidden, self._heads[depth])
        if state.prior is not None:  # level heads only
            ids = (
                state.ids[depth]
                if depth
                else torch.zeros(len(hidden), 1, dtype=torch.long, device=self.device)
            )
            owner = torch.arange(len(ids), device=self.device)[:, None].expand_as(ids)
            added = state.prior.logits(
                depth, ids.flatten(), owner.flatten(), self.vocab.has_eos(depth)
            )
            logits += added.view_as(logits)
        return logits.log_softmax(-1)

    @staticmethod
    def _follow(state: LmState, parents: Tensor, codes: Tensor, depth: int) -> None:
        """Remember which prefixes of the index the new rows of ``depth`` are."""
        if state.prior is not None:
            above = (
                state.ids[depth - 1].gather(1, parents) if depth > 1 else torch.zeros_like(codes)
            )
            state.ids[depth] = state.prior.legal.child(depth - 1, above, codes)

    def _level_logp(self, hidden: Tensor, depth: int, state: LmState) -> Tensor:
        """(…, n) the level's columns: all that a level head has; of a full head a slice, not
        renormalised.
        """
        if self.head == "level":
            return self._logp(hidden, depth, state)
        start = self.vocab.text_vocab + self.vocab.offsets[depth]
        stop = start + self.codebook_sizes[depth]
        parts = []
        for rows in hidden.flatten(0, -2).split(max(1, CHUNK // len(self._heads[depth]))):
            logp = self._logp(rows, depth, state)
            parts.append(logp[:, start:stop])
            if self.vocab.has_eos(depth):
                parts[-1] = torch.cat([parts[-1], logp[:, -1:]], -1)
        return torch.cat(parts).view(*hidden.shape[:-1], -1)


def _check_int8(device: torch.device, misfit: str | None) -> None:
    """Raise ``ValueError`` where products in int8 are not to be had."""
    if misfit:
        raise ValueError(
            f"decode.precision int8 does not fit this model: {misfit}; use bf16, fp32 or auto"
        )
    if device.type != "cpu":
        raise ValueError(
            f"decode.precision int8 runs on a CPU, and this model is on {device}; use bf16, fp32 "
            "or auto"
        )
