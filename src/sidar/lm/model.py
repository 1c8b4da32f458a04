"""SidLM: a causal LM whose answers are Semantic IDs.

Text goes through the backbone's own word embeddings; SID tokens have rows of their own (``sid_in``)
and one head per level, so the text tokenizer never learns of them and a level's softmax costs only
that level's codes.  That sliced softmax *is* the model: π(code | prefix) is a proper distribution
over the codes of the next level (docs/concepts.md).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidar.config import LmConfig, LoraConfig, OptimConfig
from sidar.index import PrefixIndex
from sidar.lm import unpadded
from sidar.lm.backbone import Backbone, add_lora, load_backbone
from sidar.lm.prior.geometry import Geometry
from sidar.lm.prior.legal import Legal
from sidar.lm.prompts import NO_READER
from sidar.lm.start import sid_rows
from sidar.lm.store import SidLMConfig, check_codebooks, read, save
from sidar.lm.vocab import SidVocab
from sidar.types import SemanticIds

if TYPE_CHECKING:
    from sidar.lm.prompts import PromptBuilder


class SidLM(nn.Module):
    """A decoder with SID embeddings and per-level heads. Make one with :meth:`build` or
    :meth:`from_pretrained`.

    ``codebooks``: per level (K_l, D) float32 centroids, kept as a buffer for RDRW's ``item_vector``
    and, with ``init="centroid"``, the start of the SID rows.
    """

    backbone: Any  # a base model of transformers: without head, states after the final norm
    centroids: Tensor | None

    def __init__(self, config: SidLMConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.vocab = SidVocab(config.codebook_sizes, config.text_vocab, config.variable_length)
        self.backbone = backbone.decoder
        self.tokenizer = backbone.tokenizer
        d = self.hidden_size
        # EOS included, though nothing follows it
        self.sid_in = nn.Parameter(torch.zeros(self.vocab.size, d))
        # One parameter per level: a slice of one big matrix would fill a full-size gradient once
        # per level.
        self.heads = nn.ParameterList(
            nn.Parameter(torch.zeros(k, d)) for k in config.codebook_sizes
        )
        self.eos_head = nn.Parameter(torch.zeros(1, d))
        self.text_head: nn.Parameter | None = None
        if config.head == "full" and not config.tied:
            head = backbone.text_head
            self.text_head = nn.Parameter(
                torch.zeros(config.text_vocab, d) if head is None else head
            )
        size = (self.vocab.eos, config.centroid_dim)
        self.register_buffer("centroids", torch.zeros(size) if config.centroid_dim else None)
        self.geometry: Geometry | None = None
        if config.geometry:
            stages = config.geometry_exact, config.geometry_top
            self.geometry = Geometry(config.codebook_sizes, config.geometry, d, *stages)

    # ------------------------------------------------------------------ making one

    @classmethod
    def build(
        cls,
        cfg: LmConfig,
        sids: SemanticIds | Sequence[int],
        codebooks: Sequence[np.ndarray] | None = None,
        variable_length: bool | None = None,
        seed: int = 0,
    ) -> SidLM:
        """A model for one SID table (or bare codebook sizes, then of fixed length unless said
        otherwise).

        Raises ``ValueError`` for a backbone that packing does not fit, for codebooks that are not
        the table's, and for a start at the geometry without codebooks or with a full head.
        """
        table = sids if isinstance(sids, SemanticIds) else None
        sizes = table.codebook_sizes if table else cast("Sequence[int]", sids)
        sizes = tuple(int(k) for k in sizes)
        if variable_length is None:
            variable_length = table is not None and not table.fixed_length
        check_codebooks(cfg, sizes, codebooks)
        backbone = load_backbone(cfg, seed)
        words = backbone.decoder.get_input_embeddings().weight
        config = SidLMConfig.of(
            cfg,
            codebook_sizes=sizes,
            text_vocab=words.shape[0],
            variable_length=variable_length,
            pretrained=backbone.pretrained,
            tied=backbone.text_head is None,
            centroid_dim=0 if codebooks is None else int(codebooks[0].shape[1]),
            sid_version=table.version if table else "",
        )
        model = cls(config, backbone)
        if codebooks is not None:
            model.centroids = torch.from_numpy(np.concatenate(codebooks)).float()
        rows = sid_rows(
            model.word_embeddings, sizes, model.centroids if cfg.init == "centroid" else None, seed
        )
        with torch.no_grad():
            model.sid_in.copy_(rows)
            if model.geometry is not None and model.centroids is not None:
                # heads stay at zero: the decoder adds nothing yet
                model.geometry.start(model.centroids)
            else:
                for head, start in zip(
                    [*model.heads, model.eos_head], rows.split([*sizes, 1]), strict=True
                ):
                    head.copy_(start)
        if cfg.lora:
            model.adapt(cfg.lora, seed)
        if table is not None:
            model.use(PrefixIndex.build(table))
        return model

    def use(self, index: PrefixIndex) -> None:
        """Weigh the SIDs of ``index`` by the query's sentence vector; nothing to do for a model
        that reads none.

        Whoever opens a model hands it the index that it searches: a refreshed one where the
        catalogue has moved on. Raises ``ValueError`` where the codebooks differ.
        """
        if self.geometry is None or self.centroids is None:
            return
        if tuple(index.codebook_sizes) != self.config.codebook_sizes:
            raise ValueError(
                f"the index has codebooks {tuple(index.codebook_sizes)}, the model "
                f"{self.config.codebook_sizes}; rebuild the index with sidar index, or train the "
                "model on this SID table"
            )
        self.geometry.legal = Legal(index, self.centroids.cpu().numpy(), self.device)

    def over(self, index: PrefixIndex) -> SidLM:
        """Return a model of the same weights that weighs the SIDs of ``index``; itself where it
        reads no sentence vectors.

        Searches under way go on over the index that they began with.
        """
        if self.geometry is None:
            return self
        # a shallow copy would share the table of submodules, and with it the geometry
        other = copy.copy(self)
        other.__dict__["_modules"] = dict(self._modules)
        other.geometry = copy.copy(self.geometry)
        other.use(index)
        return other

    def adapt(self, lora: LoraConfig, seed: int = 0) -> None:
        """Put adapters into the backbone: from here on only they, the SID rows and the level heads
        are trained.
        """
        targets = add_lora(self.backbone, lora, seed)
        # a null says no names
        self.config = replace(self.config, lora={**lora.model_dump(), "targets": targets})
        if self.text_head is not None:
            self.text_head.requires_grad_(False)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model into ``folder``: safetensors, JSON configs and the tokenizer; no pickle
        (lm/store.py).
        """
        save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        attention: Literal["auto", "sdpa", "eager"] | None = None,
    ) -> SidLM:
        """Load what :meth:`save_pretrained` wrote; opens no network.

        ``attention`` overrides the stored kernel.
        """
        stored = read(Path(folder), attention)
        config = SidLMConfig(**stored.config)
        model = cls(config, Backbone(stored.decoder, stored.tokenizer, None, config.pretrained))
        if config.lora:
            model.adapt(LoraConfig(**config.lora))
        stored.fill(model)
        return model.to(device).eval()

    # ------------------------------------------------------------------ facts

    @property
    def hidden_size(self) -> int:
        return int(self.backbone.config.hidden_size)

    @property
    def word_embeddings(self) -> nn.Parameter:
        """(text_vocab, d) input embeddings of text."""
        words: nn.Parameter = self.backbone.get_input_embeddings().weight
        return words

    @property
    def text_vocab(self) -> int:
        return self.vocab.text_vocab

    @property
    def device(self) -> torch.device:
        return self.sid_in.device

    @cached_property
    def prompts(self) -> PromptBuilder:
        """The prompt builder that this model was trained with."""
        from sidar.lm.prompts import PromptBuilder

        c = self.config
        return PromptBuilder(
            self.tokenizer,
            self.vocab,
            c.template,
            c.max_prompt_tokens,
            c.history_items,
            vector_dim=c.geometry,
        )

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Groups for AdamW: new parts at ``lr_new``, pretrained weights at ``lr_pretrained``;
        frozen ones are left out.

        Only matrices inside the blocks decay: an embedding row that a step does not touch must not
        shrink.
        """
        words = self.word_embeddings
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            inside = name.startswith("backbone.") and "lora_" not in name
            from_checkpoint = (inside or name == "text_head") and self.config.pretrained == "all"
            from_checkpoint |= parameter is words and self.config.pretrained == "text"
            decays = name.startswith("backbone.") and parameter is not words and parameter.ndim > 1
            groups.setdefault((not from_checkpoint, decays), []).append(parameter)
        return [
            {
                "name": f"{'new' if new else 'pretrained'}{'' if decays else ', no decay'}",
                "params": parameters,
                "lr": optim.lr_new if new else optim.lr_pretrained,
                "weight_decay": optim.weight_decay if decays else 0.0,
            }
            for (new, decays), parameters in sorted(groups.items(), reverse=True)
        ]

    # ------------------------------------------------------------------ computing

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """(…,) int64 mixed token ids → (…, d): text ids by the backbone, ``text_vocab + s`` by SID
        row s.
        """
        is_text = tokens < self.text_vocab
        sid = F.embedding((tokens - self.text_vocab).clamp(min=0), self.sid_in)
        if self.text_vocab == 0:
            return sid
        text = self.backbone.get_input_embeddings()(tokens.clamp(max=self.text_vocab - 1))
        return torch.where(is_text[..., None], text, sid)

    def embed(self, tokens: Tensor, vectors: Tensor | None, ends: Tensor) -> Tensor:
        """:meth:`embed_tokens` of prompts (B, T) that end at the flat positions ``ends`` (B,),
        which also tell the decoder of ``vectors`` (B, D) where the model reads sentence vectors."""
        embeds = self.embed_tokens(tokens)
        if self.geometry is None:
            return embeds
        added = self.geometry.tokens(self.checked(vectors)).to(embeds.dtype)
        return embeds.flatten(0, 1).index_add(0, ends, added).view_as(embeds)

    def checked(self, vectors: Tensor | None) -> Tensor:
        """The sentence vectors of prompts; ``ValueError`` where this model needs them and none came
        along.
        """
        if vectors is None:
            raise ValueError(NO_READER)
        return vectors

    def forward(
        self,
        tokens: Tensor,
        position_ids: Tensor,
        attention_bias: Tensor | None,
        embeds: Tensor | None = None,
    ) -> Tensor:
        """States after the final norm: tokens, position_ids (B, T), additive float bias (B, 1, T,
        T) → (B, T, d).

        ``embeds`` (B, T, d) stand for the tokens' own where given (:meth:`embed`). The bias is
        float on purpose: a boolean 4-D mask is added as 0/1 by eager attention, silently wrong.
        """
        return self.backbone(
            inputs_embeds=self.embed_tokens(tokens) if embeds is None else embeds,
            attention_mask=attention_bias,
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state

    def states(
        self,
        tokens: Tensor,
        position_ids: Tensor,
        attention_bias: Tensor,
        real: Tensor,
        asked: Tensor,
        vectors: Tensor | None = None,
    ) -> Tensor:
        """:meth:`forward` at the flat positions ``asked`` (n,) alone: (n, d), in their order.

        The first B of ``asked`` are the ends of the prompts, whose sentence vectors are ``vectors``
        (B, D) or None.

        ``real`` (r,) ascending flat positions b·T + t of tokens that are not padding. Llama-like
        families take the short way (:mod:`sidar.lm.unpadded`), others compute every position.
        """
        embeds = self.embed(tokens, vectors, asked[: len(tokens)])
        if unpadded.fits(self.backbone):
            return unpadded.states(
                self.backbone,
                embeds,
                position_ids,
                attention_bias,
                real,
                asked,
                self.config.attention,
            )
        return self(tokens, position_ids, attention_bias, embeds).flatten(0, 1)[asked]

    @property
    def head_scale(self) -> float:
        """Factor on the heads' products: 1, or 1 / √d where heads start at zero beside a prior
        (lm/prior/geometry.py): a step of Adam moves all d entries alike."""
        return 1.0 if self.geometry is None else self.hidden_size**-0.5

    def level_logits(self, hidden: Tensor, depth: int, prior: Tensor | None = None) -> Tensor:
        """Logits of what may follow ``depth`` written codes: (…, d) → (…, n).

        ``prior`` (…, n) is added to them: what the sentence vector says
        (:meth:`sidar.lm.prior.geometry.Prior.logits`).

        Columns: the codes of level ``depth``; then EOS as the last one where SIDs have variable
        length and depth ≥ 1. At depth L: the last level's codes again and EOS, a choice set that
        exists in training only: after L codes an SID is over with probability 1, so no decoder asks
        for it (:meth:`SidVocab.n_codes`).
        """
        logits = F.linear(hidden, self.heads[min(depth, self.vocab.n_levels - 1)])
        if self.vocab.has_eos(depth):
            logits = torch.cat([logits, F.linear(hidden, self.eos_head)], -1)
        if self.geometry is not None:
            logits = logits.float() * self.head_scale
        return logits if prior is None else logits + prior

    def log_normaliser(self, hidden: Tensor, logits: Tensor) -> Tensor:
        """log Σ exp over the choice set of ``head``: the level's own columns, or all of text and
        SIDs. (…,) fp32.
        """
        if self.config.head == "level":
            return logits.float().logsumexp(-1)
        parts = [self.word_embeddings if self.text_head is None else self.text_head]
        parts += [*self.heads, self.eos_head]
        return torch.stack(
            [F.linear(hidden, rows).float().logsumexp(-1) for rows in parts]
        ).logsumexp(0)

    def level_logp(self, hidden: Tensor, depth: int) -> Tensor:
        """log π(code | prefix), columns as in :meth:`level_logits`, fp32.

        ``head="full"`` takes the softmax over text and all SID tokens and is *not* renormalised to
        the level.
        """
        logits = self.level_logits(hidden, depth)
        return logits.float() - self.log_normaliser(hidden, logits)[..., None]

    def item_vectors(self, tokens: Tensor) -> Tensor:
        """(…, S) SID tokens, −1 = absent → (…, D) dequantised vector: the sum of the codes'
        centroids.

        Without stored codebooks the input rows of the codes stand in for the centroids. EOS adds
        nothing.
        """
        table = self.sid_in.detach() if self.centroids is None else self.centroids
        codes = (tokens >= 0) & (tokens < self.vocab.eos)
        return (F.embedding(tokens.clamp(0, self.vocab.eos - 1), table) * codes[..., None]).sum(-2)
