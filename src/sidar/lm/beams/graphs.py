"""The lean decoder with static shapes: on a GPU each step is one recorded CUDA graph [ours].

A step of a small batch is hundreds of kernels that take less time than their launches. Recorded
once and replayed, they cost one launch: prompts are padded to a multiple of :data:`BLOCK`, and for
each number of prompts, padded length and chain of widths there is one graph per step, whose inputs
and outputs stay where they are in memory.  What a search does between steps (the ragged gathers of
the trie, top-k) is as before.  The slow twin is :class:`~sidar.lm.beams.lean.LeanDecoder`.

On a CPU, or with ``graphs=False``, a replay runs the step again and copies what it gives into the
same memory: the same shapes, the same reuse of buffers, under the same tests.  No GPU has run the
recording yet (docs/gpu.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sidar.lm.beams.lean import LeanDecoder, LeanState

#: Prompts are padded to a multiple of so many tokens.
BLOCK = 32
#: Recorded steps that are kept; with more, all are recorded anew.
MOST = 256
#: Runs before a recording: libraries choose their kernels and make their workspaces in them.
WARM_UP = 3


@dataclass
class Recorded:
    """One step of one shape: inputs, what it gives, and the steps that were recorded after it."""

    inputs: tuple[Tensor, ...]
    hidden: Tensor
    state: LeanState
    replay: Callable[[], None]
    after: dict[int, Recorded] = field(default_factory=dict)


@dataclass
class StaticState:
    """A search under way: the recorded steps that it went through. ``turn`` is its number among the
    searches of the decoder, which has memory for one.
    """

    turn: int
    steps: list[Recorded]


class StaticDecoder(LeanDecoder):
    """A lean decoder of which only the latest search may go on; see :mod:`sidar.lm.beams.graphs`.

    ``graphs``: record CUDA graphs; None = where ``backbone`` is on a GPU.
    """

    def __init__(
        self,
        backbone: nn.Module,
        dtype: torch.dtype = torch.float32,
        *,
        graphs: bool | None = None,
    ) -> None:
        super().__init__(backbone, dtype)
        on_gpu = next(backbone.parameters()).is_cuda
        self._graphs = on_gpu if graphs is None else graphs
        self._turn_number = 0
        self._roots: dict[tuple[int, int], Recorded] = {}
        self._count = 0
        self._pool: Any = None  # memory of the graphs

    def refresh(self) -> None:
        """As there; a recording may read memory that is not the weights' any more."""
        super().refresh()
        self._forget()

    # a scorer takes only the state that it made itself, and here that is a static one
    def prefill(  # type: ignore[override]
        self, x: Tensor, lengths: Tensor, *, padded: bool | None = None
    ) -> tuple[Tensor, StaticState]:
        """As there; the search before this one is over."""
        q, p, d = x.shape
        size = -(-p // BLOCK) * BLOCK
        if self._count > MOST:
            self._forget()
        root = self._roots.get((q, size))
        if root is None:
            rows = x.new_zeros(q, size, d)
            # whole prompts are a length that every recording may have
            inputs = (rows, torch.full_like(lengths, size))
            base = super().prefill
            root = self._record(lambda: base(*inputs, padded=True), inputs)
            self._roots[q, size] = root
        rows, ends = root.inputs
        rows[:, :p].copy_(x)
        ends.copy_(lengths)
        root.replay()
        self._turn_number += 1
        return root.hidden, StaticState(self._turn_number, [root])

    def step(  # type: ignore[override]  # as of prefill
        self, state: StaticState, x: Tensor, parents: Tensor, depth: int
    ) -> Tensor:
        """As there; ``RuntimeError`` for the state of an earlier search."""
        if state.turn != self._turn_number:
            raise RuntimeError(
                "another search has begun with this scorer, whose memory is for one; end a search "
                "before the next, or use engine='lean'"
            )
        before = state.steps[depth - 1]
        width = x.shape[1]
        step = before.after.get(width)
        if step is None:
            inputs = (torch.zeros_like(x), torch.zeros_like(parents))
            base = super().step

            def run() -> tuple[Tensor, LeanState]:
                after = _snapshot(before.state)
                return base(after, *inputs, depth), after

            step = before.after[width] = self._record(run, inputs)
        for place, value in zip(step.inputs, (x, parents), strict=True):
            place.copy_(value)
        step.replay()
        state.steps[depth:] = [step]
        return step.hidden

    def _record(
        self, run: Callable[[], tuple[Tensor, LeanState]], inputs: tuple[Tensor, ...]
    ) -> Recorded:
        """Return ``run``, which reads ``inputs``, as a step that can be repeated."""
        self._count += 1
        if not self._graphs:
            hidden, state = run()
            places = list(_tensors((hidden, state)))

            def again() -> None:
                for place, value in zip(places, _tensors(run()), strict=True):
                    if place.data_ptr() != value.data_ptr():
                        place.copy_(value)

            return Recorded(inputs, hidden, state, again)
        return self._record_graph(run, inputs)

    def _record_graph(
        self, run: Callable[[], tuple[Tensor, LeanState]], inputs: tuple[Tensor, ...]
    ) -> Recorded:
        """Return ``run`` as a CUDA graph.

        All graphs share one pool of memory. That is safe because a search replays a step only after
        those that it was recorded after, and only the latest search goes on: what a replay may
        overwrite belongs to steps that nobody reads any more.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # other threads may allocate meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            hidden, state = run()
        self._pool = graph.pool()
        return Recorded(inputs, hidden, state, graph.replay)

    def _forget(self) -> None:
        """Let go of all recordings, and end the search under way."""
        self._roots, self._count, self._pool = {}, 0, None
        self._turn_number = getattr(self, "_turn_number", 0) + 1


def _snapshot(state: LeanState) -> LeanState:
    """Return a state with containers of its own and the same tensors, so that a step can add to
    it.
    """
    other = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, (dict, list)):
            setattr(other, name, copy.copy(value))
    return other


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors inside dataclasses, dicts, lists and tuples, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for one in fields(value):
            yield from _tensors(getattr(value, one.name))
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _tensors(value[key])
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
