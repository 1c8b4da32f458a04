"""Checkpoints that survive a kill at any moment, or are not there at all.

``step-00000200/`` holds ``model.safetensors`` (what training moves: trainable weights, and the
buffers that a caller names, such as codebooks that follow running means), ``optimizer.safetensors``
(AdamW's moments by parameter name), ``state.json`` (step, best validation, RDRW window, counters,
identity) and ``manifest.json``: the sha256 of each, written last.  Where a run reads an earlier
state of the model as well, ``kept.safetensors`` holds it: no other file of the run has these
weights.  All of it is written into a temporary sibling, flushed to disk and renamed, so a folder
with the final name is complete; its hashes are checked again before anything resumes from it.

No generator state is stored: the data order, the learning rate and every random draw are functions
of (seed, step). Frozen weights (LoRA) are not stored either: the run rebuilds them, and their hash
is part of the run's identity.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sidar.artifacts import fsync_tree, replace_folder, sha256_file

WEIGHTS, MOMENTS, STATE, MANIFEST, KEPT = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
    "kept.safetensors",
)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: every file has the hash that its manifest names."""

    path: Path
    step: int
    state: dict[str, Any]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """``{name: parameter}`` of what the optimizer moves; a tied weight appears once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _moved(model: nn.Module, buffers: Sequence[str]) -> dict[str, Tensor]:
    """``{name: tensor}`` of trainable parameters and of the named ``buffers``."""
    named = dict(model.named_buffers())
    return {**trainable(model), **{name: named[name] for name in buffers}}


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    keep: int = 2,
    buffers: Sequence[str] = (),
    kept: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write ``folder/step-<step>`` atomically and delete all but the newest ``keep`` checkpoints.

    ``buffers`` names the model's buffers that training moves without a gradient; ``kept`` are
    tensors beside the model that the run reads and no step can be computed without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    tmp = folder / f".{final.name}.tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir()
    tensors = _moved(model, buffers)
    save_file(_on_cpu(tensors), tmp / WEIGHTS)
    save_file(_moments(trainable(model), optimizer), tmp / MOMENTS)
    written = [WEIGHTS, MOMENTS, STATE]
    if kept:
        save_file(_on_cpu(kept), tmp / KEPT)
        written.append(KEPT)
    (tmp / STATE).write_text(json.dumps({"step": step, **state}, indent=1) + "\n")
    files = {name: sha256_file(tmp / name) for name in written}
    fsync_tree(tmp)  # the files reach the disk before the manifest that vouches for them
    (tmp / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1) + "\n")
    fsync_tree(tmp)
    replace_folder(tmp, final)
    for old in sorted(folder.glob("step-*"))[: -max(keep, 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are what its manifest says; None where none was ever
    finished.

    A damaged one is passed over with a ``RuntimeWarning``; when all are damaged, ``ValueError``.
    """
    paths = sorted(Path(folder).glob("step-*"), reverse=True)
    for path in paths:
        problem = damage(path)
        if problem is None:
            state = json.loads((path / STATE).read_text())
            return Checkpoint(path, int(state["step"]), state)
        warnings.warn(
            f"checkpoint {path} is damaged ({problem}); falling back to an older one",
            RuntimeWarning,
            2,
        )
    if paths:
        raise ValueError(
            f"all {len(paths)} checkpoints in {folder} are damaged; delete that folder to start "
            "afresh"
        )
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, in words; None when every hash fits."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        return f"its manifest cannot be read: {error}"
    if set(files) - {KEPT} != {WEIGHTS, MOMENTS, STATE}:
        return f"its manifest names {sorted(files)}"
    for name, want in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256_file(path / name) != want:
            return f"{name} differs from its sha256"
    return None


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    buffers: Sequence[str] = (),
    kept: Mapping[str, Tensor] | None = None,
) -> None:
    """Put a checkpoint's weights, ``buffers``, moments and ``kept`` tensors back, in place.

    Raises ``ValueError`` when it was made by a model with other trainable weights or buffers, or
    keeps other tensors beside it.
    """
    parameters, moments = trainable(model), load_file(checkpoint.path / MOMENTS)
    _put_back(checkpoint, WEIGHTS, _moved(model, buffers))
    if kept:
        _put_back(checkpoint, KEPT, kept)
    names = {id(p): name for name, p in parameters.items()}
    state: dict[int, dict[str, Tensor]] = {}
    number = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = names[id(parameter)] + "::"
            kept = {
                key[len(prefix) :]: value
                for key, value in moments.items()
                if key.startswith(prefix)
            }
            if kept:
                state[number] = kept
            number += 1
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _put_back(checkpoint: Checkpoint, file: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors of one file of a checkpoint into ``tensors``, which must be the same ones.

    Raises ``ValueError`` where names or shapes differ.
    """
    path = checkpoint.path / file
    stored = load_file(path) if path.is_file() else {}
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if (got := {name: tuple(t.shape) for name, t in stored.items()}) != shapes:
        odd = sorted({*got.items()} ^ {*shapes.items()})[:3]
        raise ValueError(
            f"{path} belongs to another model (e.g. {odd}); delete its folder to start afresh"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])


def _moments(
    parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """``{"<parameter>::<moment>": tensor}``; a parameter that never had a gradient has none."""
    return {
        f"{name}::{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Replace ``folder`` atomically by one that holds ``tensors``."""
    tmp = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp / WEIGHTS)
    fsync_tree(tmp)
    replace_folder(tmp, folder)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return what :func:`write_weights` wrote."""
    return load_file(folder / WEIGHTS)


def frozen_hash(model: nn.Module) -> str:
    """sha256 of all weights that are not trained; "" where everything is."""
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    if not frozen:
        return ""
    digest = hashlib.sha256()
    for name, parameter in frozen:
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def environment() -> dict[str, object]:
    """What bit-exactness leans on beside the identity: a change is a warning, not a refusal."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": os.uname().machine,
    }


def differing(checkpoint: Checkpoint, identity: dict[str, object]) -> list[str]:
    """``key: before -> now`` of every key in which the checkpoint's identity is not
    ``identity``.
    """
    before, now = _flat(checkpoint.state["identity"]), _flat(identity)
    return [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]


def check_identity(checkpoint: Checkpoint, identity: dict[str, object]) -> None:
    """Refuse to continue under another config or on other inputs; warn where only the environment
    differs.

    Raises ``ValueError`` naming every differing key with both values.
    """
    if changed := differing(checkpoint, identity):
        raise ValueError(
            f"{checkpoint.path.parent} holds an interrupted run with other settings or inputs "
            f"({'; '.join(changed)}). Restore them to continue it, or delete that folder to start "
            "afresh"
        )
    was, here = checkpoint.state["environment"], environment()
    if was != here:
        warnings.warn(
            f"resuming under {here}, was {was}: the result will not be bit-exact", RuntimeWarning, 2
        )


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
