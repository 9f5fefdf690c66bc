"""Explanations of the errors that runs die of, with remedies."""

import errno

import torch

from detr.errors import InputError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "not enough memory")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain(error: Exception) -> str:
    """Describe an error in one sentence, with the remedy if one is known. docs/survival.md lists them."""
    if isinstance(error, InputError):
        return str(error)
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        first = text.partition("\n")[0][:200]
        return (
            f"out of memory ({first}); halve train.batch_size and double train.accumulate, which keeps the effective "
            "batch, or lower data.image_size or workers"
        )
    if "DataLoader worker" in text:
        return f"{text.partition(chr(10))[0]}; memory or /dev/shm may be short: lower data.num_workers"
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"the disk is full ({error}); free some space, and the same command goes on from the last checkpoint"
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"the run directory cannot be written ({error}); the same command goes on when it can"
    return text
