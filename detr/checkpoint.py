"""Weights and training state on disk, and the official checkpoints.

A checkpoint is a folder `step-00000300` of model.safetensors (weights), state.pt (the rest) and manifest.json (length
and SHA-256 of both). It is written beside, flushed, and renamed in one step: a name without a suffix was complete. The
two latest are kept. Reading compares with the manifest; what a disk has damaged since is set aside as ".damaged".
"""

import argparse
import errno
import hashlib
import json
import logging
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detr.errors import InputError

log = logging.getLogger(__name__)
WEIGHTS, STATE, MANIFEST, KEEP = "model.safetensors", "state.pt", "manifest.json", 2
UNFINISHED, DAMAGED = ".unfinished", ".damaged"


class DamagedCheckpoint(RuntimeError):
    """A checkpoint differs from what was written; the message names file and fault."""


def save_checkpoint(folder: Path, step: int, model: nn.Module, state: dict[str, Any]) -> Path:
    """Write `folder/step-...` and remove all but the latest two; returns the new folder.

    OSError when the disk does not take it; nothing is left of the attempt then, and the earlier ones stay.
    """
    final = folder / f"step-{step:08d}"
    if final.is_dir():  # closed before the step's evaluation, and saved again after it
        final = folder / f"{final.name}-evaluated"
    beside = folder / f"{final.name}{UNFINISHED}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        with _disk_errors(beside):
            save_file(_contiguous(model), beside / WEIGHTS)
            torch.save(state, beside / STATE)
            manifest = {name: _fingerprint(beside / name) for name in (WEIGHTS, STATE)}
            (beside / MANIFEST).write_text(json.dumps(manifest, indent=1))
            for path in (*beside.iterdir(), beside):
                _flush(path)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)  # a full disk gets its space back
        raise
    shutil.rmtree(final, ignore_errors=True)
    beside.rename(final)
    _flush(folder)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if not path.suffix)


def checkpoint_step(path: Path) -> int:
    """Optimiser steps that a checkpoint's training had done."""
    return int(path.name.split("-")[1])


def discard_after(folder: Path, step: int) -> None:
    """Remove checkpoints of later steps; training will come to them again."""
    for path in checkpoints(folder):
        if checkpoint_step(path) > step:
            log.warning("%s is removed: the records of training end at step %d", path, step)
            shutil.rmtree(path)


def load_latest(folder: Path, model: nn.Module) -> dict[str, Any] | None:
    """Fill the model from the latest sound checkpoint and return the rest of its state; None where there is none.

    A damaged one is reported and set aside, and the one before it is read.
    """
    for path in reversed(checkpoints(folder)):
        try:
            return load_checkpoint(path, model)
        except DamagedCheckpoint as damage:
            log.warning("%s; it is set aside, and training resumes from the checkpoint before it", damage)
            aside = path.with_name(path.name + DAMAGED)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
    return None


def load_checkpoint(path: Path, model: nn.Module) -> dict[str, Any]:
    """Fill the model and return the rest of the state, on the CPU. DamagedCheckpoint when a byte is not as written."""
    _verify(path)
    try:
        weights = load_file(path / WEIGHTS)
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError) as error:  # crafted, manifest included
        raise DamagedCheckpoint(f"{path}: not a checkpoint ({str(error).partition(chr(10))[0]})") from None
    model.load_state_dict(weights)  # after the state was read: a checkpoint counts whole or not at all
    return state


def save_weights(path: Path, model: nn.Module) -> None:
    """Replace a weights file in one step."""
    beside = path.with_name(path.name + UNFINISHED)
    try:
        with _disk_errors(path.parent):
            save_file(_contiguous(model), beside)
        _flush(beside)
    except OSError:
        beside.unlink(missing_ok=True)  # a full disk gets its space back
        raise
    beside.replace(path)


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The state dict of a safetensors file, or of a torch file that holds it alone or, as official ones, under "model".

    Torch files are read without unpickling anything but tensors and the argparse.Namespace of self-saved checkpoints.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: not a checkpoint ({reason})") from None
    except Exception as error:
        # pickle.UnpicklingError and whatever a crafted file provokes in the restricted unpickler
        raise InputError(f"{path}: not a checkpoint of tensors alone ({type(error).__name__})") from None
    state = content.get("model", content) if isinstance(content, dict) else None
    if not (isinstance(state, dict) and state and all(isinstance(x, Tensor) for x in state.values())):
        raise InputError(f"{path}: holds no state dict, neither by itself nor under the key 'model'")
    return state


def load_official(model: nn.Module, state_dict: dict[str, Any]) -> list[str]:
    """Load weights with the official names, as a state dict or as a dict that holds it under "model".

    Strict about names and shapes: InputError names the first that is off. Only a class head for another number of
    classes is left as it is; its names are logged and returned.
    """
    state = state_dict.get("model", state_dict)
    own = model.state_dict()
    fresh = [k for k in own if k.startswith("class_embed.") and k in state and state[k].shape != own[k].shape]
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    unknown = [k for k in unknown if not k.endswith("num_batches_tracked")]
    if missing or unknown:
        raise InputError(
            f"the checkpoint is of another model: it lacks {len(missing)} names ({', '.join(missing[:3])}) "
            f"and has {len(unknown)} others ({', '.join(unknown[:3])}); set model.* to the model that was trained"
        )
    for name in own:
        if name not in fresh and state[name].shape != own[name].shape:
            raise InputError(
                f"{name} is {tuple(state[name].shape)} in the checkpoint and {tuple(own[name].shape)} in the model; "
                "set model.* to the model that was trained"
            )
    model.load_state_dict({name: own[name] if name in fresh else state[name] for name in own})
    if fresh:
        rows, own_rows = (len(weights["class_embed.weight"]) for weights in (state, own))
        log.warning("the checkpoint's class head has %d columns and the model's %d: left fresh", rows, own_rows)
    return fresh


def _contiguous(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def _verify(path: Path) -> None:
    """DamagedCheckpoint unless both files are as the manifest says. Other errors, as of permission, are no damage."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name in (WEIGHTS, STATE):
            written, found = manifest[name], _fingerprint(path / name)
            if written != found:
                raise DamagedCheckpoint(f"{path / name}: damaged: written as {written}, found as {found}")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EIO):
            raise
        raise DamagedCheckpoint(f"{error.filename or path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):  # not JSON, or no object with both names
        raise DamagedCheckpoint(f"{path / MANIFEST}: damaged: not a manifest") from None


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Raise the system's own error where the disk is full: torch calls it "unexpected pos", safetensors wraps it."""
    try:
        yield
    except (RuntimeError, SafetensorError):
        probe = folder / "probe"
        try:
            probe.write_bytes(bytes(1 << 16))  # the disk is as full as the libraries left it
        finally:
            probe.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
