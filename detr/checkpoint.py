"""Weights and training state on disk, and the official checkpoints.

A checkpoint is a folder `step-00000300` of model.safetensors (weights) and state.pt (the rest), written beside,
flushed, and renamed in one step: a name without ".unfinished" is complete. The two latest are kept.
"""

import argparse
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detr.errors import InputError

log = logging.getLogger(__name__)
WEIGHTS, STATE, KEEP = "model.safetensors", "state.pt", 2


def save_checkpoint(folder: Path, step: int, model: nn.Module, state: dict[str, Any]) -> Path:
    """Write `folder/step-...` and remove all but the latest two; returns the new folder."""
    final = folder / f"step-{step:08d}"
    if final.is_dir():  # the weights of this step are there; its evaluation may have been done since
        beside = final / f"{STATE}.unfinished"
        torch.save(state, beside)
        _flush(beside)
        beside.replace(final / STATE)
        return final
    beside = folder / f"{final.name}.unfinished"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file(_contiguous(model), beside / WEIGHTS)
    torch.save(state, beside / STATE)
    for path in (beside / WEIGHTS, beside / STATE, beside):
        _flush(path)
    beside.rename(final)
    _flush(folder)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".unfinished")


def load_checkpoint(path: Path, model: nn.Module) -> dict[str, Any]:
    """Fill the model and return the rest of the state, on the CPU."""
    model.load_state_dict(load_file(path / WEIGHTS))
    return torch.load(path / STATE, map_location="cpu", weights_only=True)


def save_weights(path: Path, model: nn.Module) -> None:
    """Replace a weights file in one step."""
    beside = path.with_name(path.name + ".unfinished")
    save_file(_contiguous(model), beside)
    _flush(beside)
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
        found = state["class_embed.weight"].shape[0] - 1
        log.warning(
            "the checkpoint's class head is for %d classes and the model's for %d: left fresh", found, model.num_classes
        )
    return fresh


def _contiguous(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
