"""One training step of DETR with ResNet-50 against two others: CPU seconds, seconds and memory. The others are
transformers' DETR, and the layers of torch and torchvision as they are by default, which is how the official code is
made.

    .venv/bin/python -m benchmarks.training_step

Two images of 480 x 640 with 10 objects each, random weights, all the official settings: forward pass, matching and the
losses of 6 layers, backward pass, clipping, AdamW. All have the same parameters, of which the same ones train.
bfloat16 is measured on both sides where the CPU computes in it. Each side has a process of its own, as a training has,
with what its steps leave behind in memory; they take turns. Memory is the peak of another process above what it holds
before the model is built.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from benchmarks.losses import looped_total
from benchmarks.plain_detr import PlainDETR
from benchmarks.table import Entry, interleave, ratio_and_spread, show
from detr.config import CheckpointActivations, ModelConfig
from detr.criterion import SetCriterion
from detr.models import build_model
from detr.optim import build_optimizer, clip_gradients
from detr.precision import autocast

HEIGHT, WIDTH, BATCH, OBJECTS, CLASSES = 480, 640, 2, 10, 91
WORK = f"ResNet-50, {BATCH} x {HEIGHT}x{WIDTH}, {OBJECTS} objects an image"


def draw_batch(height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Draw images and targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, height, width, generator=generator)
    labels = torch.randint(CLASSES, (BATCH, OBJECTS), generator=generator)
    boxes = torch.rand(BATCH, OBJECTS, 4, generator=generator) * 0.3 + 0.1
    return images, [{"labels": a, "boxes": b} for a, b in zip(labels, boxes, strict=True)]


def ours(precision: str = "float32", checkpoint_activations: CheckpointActivations = "none") -> Callable[[], float]:
    """A step of the project's parts, as detr.step takes it."""
    images, targets = draw_batch()
    mask = torch.zeros(BATCH, HEIGHT, WIDTH, dtype=torch.bool)
    model = build_model(ModelConfig(pretrained=False), checkpoint_activations=checkpoint_activations).train()
    criterion, optimizer = SetCriterion(CLASSES), build_optimizer(model, 1e-4, 1e-5, 1e-4)

    def step() -> float:
        with autocast(images.device, precision):
            outputs = model(images, mask)
        loss = criterion.total(criterion(outputs, targets))
        loss.backward()
        clip_gradients(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def peer(model: nn.Module, loss_of_batch: Callable[[], Tensor]) -> Callable[[], float]:
    """The same step of another model, with torch's AdamW and clipping as they are by default."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=1e-4)

    def step() -> float:
        loss = loss_of_batch()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def theirs() -> Callable[[], float]:
    """The step of transformers' model."""
    images, targets = draw_batch()
    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
    model = transformers_model()
    return peer(model, lambda: model(pixel_values=images, labels=labels).loss)


def plain(precision: str = "float32") -> Callable[[], float]:
    """The step of torch's and torchvision's own layers, with a loop over all losses."""
    images, targets = draw_batch()
    mask = torch.zeros(BATCH, HEIGHT, WIDTH, dtype=torch.bool)
    model = PlainDETR(CLASSES)

    def total() -> Tensor:
        with autocast(images.device, precision):
            outputs = model(images, mask)
        *before, last = ({key: layer[key].float() for key in KEYS} for layer in (*outputs["aux_outputs"], outputs))
        return looped_total({**last, "aux_outputs": before}, targets)

    return peer(model, total)


def transformers_model() -> nn.Module:
    """Their DETR with our default settings."""
    import transformers  # takes seconds

    backbone = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, num_labels=CLASSES, auxiliary_loss=True
    )
    config.dropout = config.attention_dropout = config.activation_dropout = 0.1
    model = transformers.DetrForObjectDetection(config)
    for name, parameter in model.named_parameters():  # stem, stage 1 and norms are frozen
        if ".backbone." in name:
            parameter.requires_grad_(".stages." in name and ".stages.0." not in name and parameter.dim() == 4)
    return model


def computes_bfloat16() -> bool:
    """Whether the CPU has instructions for it; without them it is slower than float32."""
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextmanager
def stepping(side: str) -> Iterator[Callable[[], float]]:
    """A process of one side; the function has it take a step, and returns its CPU seconds."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--serve", side]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:

        def step() -> float:
            process.stdin.write("step\n")
            if not (answer := process.stdout.readline()):
                raise RuntimeError(f"the process of {side} has ended")
            return float(answer)

        yield step  # the end of its input ends it


def serve(step: Callable[[], float]) -> None:
    """Take a step for each line of the standard input, and answer with its CPU seconds."""
    for _ in sys.stdin:
        begin = time.process_time()
        step()
        print(time.process_time() - begin, flush=True)


def memory(side: str) -> float:
    """Peak of a process that takes three steps, above what it held before, in MB."""
    output = subprocess.run(
        [sys.executable, "-m", "benchmarks.training_step", "--memory", side], check=True, capture_output=True, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def measure_memory(side: str) -> float:
    """As `memory`, of this process."""
    if side == "theirs":
        importlib.import_module("transformers.models.detr.modeling_detr")
    # Of the process' own memory: pages of libraries come and go with what else the machine does.
    process, finished = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss - process.memory_info().shared

    def watch() -> None:
        nonlocal peak
        while not finished.wait(0.002):
            usage = process.memory_info()
            peak = max(peak, usage.rss - usage.shared)

    watcher = threading.Thread(target=watch)
    watcher.start()
    step = SIDES[side]()
    for _ in range(3):
        step()
    finished.set()
    watcher.join()
    return (peak - before) / 2**20


KEYS = ("pred_logits", "pred_boxes")
SIDES = {
    "ours": ours,
    "plain": plain,
    "theirs": theirs,
    "ours in bfloat16": lambda: ours("bfloat16"),
    "plain in bfloat16": lambda: plain("bfloat16"),
    "ours, backbone checkpointed": lambda: ours(checkpoint_activations="backbone"),
    "ours, all checkpointed": lambda: ours(checkpoint_activations="all"),
}
PEERS = {"plain": "torch's and torchvision's own layers", "theirs": "transformers' DETR"}
PAIRS = {  # of steps that are compared -> aim of ours / peer in CPU time
    ("ours", "plain"): "at most 0.97",
    ("ours", "theirs"): "",
    ("ours in bfloat16", "plain in bfloat16"): "",
    ("ours in bfloat16", "plain"): "at most 0.45",
}
CHECKPOINTED = ("ours, backbone checkpointed", "ours, all checkpointed")


def take_turns(sides: Iterable[str], repetitions: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and CPU seconds of every repetition of each side's step."""
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    with ExitStack() as stack:
        steps = {side: stack.enter_context(stepping(side)) for side in cpu}
        turns = {side: lambda side=side: cpu[side].append(steps[side]()) for side in cpu}
        seconds = interleave(turns, repetitions)
    return seconds, {side: values[1:] for side, values in cpu.items()}  # without the warm-up


def entries(repetitions: int = 6) -> Iterator[Entry]:
    """CPU time of the step in each precision and with checkpointed activations, then its memory."""
    seconds, cpu = take_turns([s for s in SIDES if "bfloat16" not in s or computes_bfloat16()], repetitions)
    pairs = PAIRS | {(side, "ours"): "" for side in CHECKPOINTED}
    for (one, other), aim in pairs.items():
        if one in cpu:
            share, spread = ratio_and_spread(cpu[other], cpu[one])
            figures = {f"{side}, CPU (s)": statistics.median(cpu[side]) for side in (one, other)}
            figures |= {f"{side} (s)": statistics.median(seconds[side]) for side in (one, other)}
            yield Entry(f"CPU time of the training step, {one}, share", told(other), WORK, share, spread, aim, figures)
    peaks = [{side: memory(side) for side in ("ours", *PEERS, *CHECKPOINTED)} for _ in range(3)]
    for one, other in [("ours", "plain"), ("ours", "theirs"), *((side, "ours") for side in CHECKPOINTED)]:
        share, spread = ratio_and_spread([peak[other] for peak in peaks], [peak[one] for peak in peaks])
        figures = {f"{side} (MB)": statistics.median(peak[side] for peak in peaks) for side in (one, other)}
        yield Entry(f"memory of the training step, {one}, share", told(other), WORK, share, spread, "", figures)


def told(side: str) -> str:
    """The side's name in the table."""
    name, _, precision = side.partition(" in ")
    return f"{PEERS.get(name, name)} in {precision or 'float32'}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--memory", choices=SIDES, help="measure the memory of one side and print it")
    parser.add_argument("--serve", choices=SIDES, help="take a step of one side for each line of the standard input")
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(measure_memory(arguments.memory)))
    elif arguments.serve:
        serve(SIDES[arguments.serve]())
    else:
        show(entries(arguments.repetitions))
