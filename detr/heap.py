"""The C library's heap, from which tensors on the CPU come."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 16 * 2**20  # bytes; larger ones are the system's where the heap has no room, which leaves fewer holes in it


def keep_freed_memory() -> None:
    """Have the process keep what tensors free, for those of its next step.

    glibc gives large blocks back to the system, which fills every page with zeros when it is asked for again: 2 to 9 %
    of a step of ResNet-50 (docs/performance.md). Does nothing with another C library, or where the environment sets how
    glibc gives out memory (MALLOC_*, GLIBC_TUNABLES).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, -1)  # never
