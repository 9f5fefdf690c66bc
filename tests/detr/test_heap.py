"""Memory that is freed and kept by the process."""

import os
import platform
import subprocess
import sys

import pytest

from detr.setup import prepare

PROGRAM = """
import sys
import psutil
import torch
from detr.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
before = psutil.Process().memory_info().rss
tensors = [torch.ones(2_500_000) for _ in range(8)]
tensors.clear()
print((psutil.Process().memory_info().rss - before) / 80_000_000)
"""


def share_kept(call, **environment):
    """The share of 80 MB of freed tensors that the process holds."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))} | environment
    command = [sys.executable, "-c", PROGRAM, call]
    return float(subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise():
    assert share_kept("keep") > 0.9
    assert share_kept("return") < 0.1
    assert share_kept("keep", MALLOC_TRIM_THRESHOLD_="1000000") < 0.1
    assert share_kept("keep", GLIBC_TUNABLES="glibc.malloc.trim_threshold=1000000") < 0.1


def test_training_on_a_cpu_keeps_it(tiny_run, monkeypatch):
    calls = []
    monkeypatch.setattr("detr.setup.keep_freed_memory", lambda: calls.append("kept"))
    prepare(tiny_run(train={"device": "cpu"}))
    assert calls == ["kept"]
