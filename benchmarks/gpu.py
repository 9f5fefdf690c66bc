"""DETR with ResNet-50 on a GPU against two peers: seconds and memory of the training step, equality with the CPU, and
the share of a training that waits for data.

    python -m benchmarks.gpu

The work and the peers are those of benchmarks.training_step: transformers' DETR, and the layers of torch and
torchvision as they are by default. Every side is measured in float32, TF32 and bfloat16, ours compiled as well. The
sides take turns, and the clock stops when the GPU has done all. The table is kept in benchmarks/results/gpu.
"""

import gc
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.__main__ import FOLDER, main
from benchmarks.losses import looped_total
from benchmarks.plain_detr import PlainDETR
from benchmarks.table import Entry, interleave, ratio_and_spread
from benchmarks.training_step import CLASSES, HEIGHT, WIDTH, WORK, draw_batch, transformers_model
from detr.config import DataConfig, ModelConfig, RunConfig, ScheduleConfig, TrainConfig
from detr.criterion import SetCriterion
from detr.models import build_model
from detr.optim import build_optimizer, clip_gradients
from detr.precision import autocast, set_tf32
from detr.train import train

PRECISIONS = ("float32", "tf32", "bfloat16")
Losses = Callable[[Tensor, Tensor, list[dict[str, Tensor]]], Tensor]  # images, padding_mask, targets -> loss


def our_losses(model: nn.Module, device: torch.device, precision: str) -> Losses:
    """Loss of a batch by the project's model and criterion, as detr.step computes it."""
    criterion = SetCriterion(CLASSES).to(device)

    def losses(images: Tensor, mask: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        with autocast(device, precision):
            outputs = model(images, mask)
        return criterion.total(criterion(outputs, targets))

    return losses


def plain_losses(model: nn.Module, device: torch.device, precision: str) -> Losses:
    """Loss of a batch by torch's and torchvision's own layers, with a loop over all losses."""

    def losses(images: Tensor, mask: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        with autocast(device, precision):
            outputs = model(images, mask)
            return looped_total(outputs, targets)

    return losses


def their_losses(model: nn.Module, device: torch.device, precision: str) -> Losses:
    """Loss of a batch by transformers' model."""

    def losses(images: Tensor, mask: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        labels = [{"class_labels": target["labels"], "boxes": target["boxes"]} for target in targets]
        with autocast(device, precision):
            return model(pixel_values=images, labels=labels).loss

    return losses


SIDES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, torch.device, str], Losses]]] = {
    "ours": (lambda: build_model(ModelConfig(pretrained=False)), our_losses),
    "plain": (lambda: PlainDETR(CLASSES), plain_losses),
    "theirs": (transformers_model, their_losses),
}
PEERS = {"plain": "torch's and torchvision's own layers", "theirs": "transformers' DETR"}


def training_step(
    side: str, device: torch.device, precision: str, compiled: bool = False, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Callable[[], None]:
    """Build a side's training step on a device; it returns when the device has done all of it."""
    images, targets = draw_batch(*size)
    images, mask = images.to(device), torch.zeros(len(images), *size, dtype=torch.bool, device=device)
    targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
    build, losses_of = SIDES[side]
    torch.manual_seed(0)
    model = build().to(device).train()
    losses = losses_of(torch.compile(model, dynamic=True) if compiled else model, device, precision)
    if side == "ours":
        optimizer, clip = build_optimizer(model, 1e-4, 1e-5, 1e-4), clip_gradients
    else:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer, clip = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-4), nn.utils.clip_grad_norm_

    def step() -> None:
        set_tf32(precision == "tf32")  # of the whole process, in which all sides take turns
        loss = losses(images, mask, targets)
        loss.backward()
        clip(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits

    return step


def speed(device: torch.device, repetitions: int = 20) -> Iterator[Entry]:
    """Seconds of the step in each precision, against each peer in the same precision."""
    for precision in PRECISIONS:
        works = {side: training_step(side, device, precision) for side in SIDES}
        works["ours, compiled"] = training_step("ours", device, precision, compiled=True)
        seconds = interleave(works, repetitions)
        for ours in ("ours", "ours, compiled"):
            for side, peer in PEERS.items():
                figures = {f"{key} (s)": statistics.median(seconds[key]) for key in (ours, side)}
                ratio, spread = ratio_and_spread(seconds[ours], seconds[side])
                what = f"GPU training step in {precision}{ours.removeprefix('ours')}"
                yield Entry(what, peer, WORK, ratio, spread, "at least 1", figures)
        del works
        gc.collect()


def memory(device: torch.device) -> Iterator[Entry]:
    """Largest allocation of three steps in float32, ours as a share of each peer's."""
    peaks = {}
    for side in SIDES:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        step = training_step(side, device, "float32")
        for _ in range(3):
            step()
        peaks[side] = torch.cuda.max_memory_allocated(device) / 2**20
        del step
        gc.collect()
    for side, peer in PEERS.items():
        figures = {f"{key} (MB)": peaks[key] for key in ("ours", side)}
        yield Entry("GPU memory, share", peer, WORK, peaks["ours"] / peaks[side], None, "at most 1", figures)


@torch.no_grad()
def equality(device: torch.device, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Iterator[Entry]:
    """Largest difference of logits and boxes between the device and the CPU, in each precision."""
    images, _ = draw_batch(*size)
    mask = torch.zeros(len(images), *size, dtype=torch.bool)
    torch.manual_seed(0)
    model = build_model(ModelConfig(pretrained=False)).eval()
    expected = model(images, mask)
    model.to(device)
    for precision, limit in (("float32", 1e-3), ("tf32", 1e-1), ("bfloat16", 5e-1)):
        set_tf32(precision == "tf32")
        with autocast(device, precision):
            found = model(images.to(device), mask.to(device))
        figures = {
            key: (found[key].float().cpu() - expected[key]).abs().max().item() for key in ("pred_logits", "pred_boxes")
        }
        what = f"GPU against CPU in {precision}, largest difference"
        yield Entry(what, "float32 on the CPU", WORK, max(figures.values()), None, f"below {limit:g}", figures)


def input_pipeline(
    device: torch.device, model: ModelConfig | None = None, side: int = HEIGHT, num_steps: int = 60
) -> Iterator[Entry]:
    """Share of a training's time in which the GPU waits for images, by the number of loading processes."""
    for workers in (2, 4, 8):
        with tempfile.TemporaryDirectory() as folder:
            data = DataConfig(
                name="shapes", root=folder, shapes_image_size=side, shapes_num_train=64, shapes_num_val=2,
                image_size=side, max_size=2 * side, num_workers=workers,
            )  # fmt: skip
            config = RunConfig(
                model=model or ModelConfig(pretrained=False, num_classes=None),
                data=data,
                schedule=ScheduleConfig(horizon=f"{num_steps} steps"),
                train=TrainConfig(batch_size=2, accumulate=1, device=device.type, precision="bfloat16", evaluations=1),
            )
            metrics = [record.metrics for record in train(config)]
        steps = [m for m in metrics if "train/step_time" in m][num_steps // 6 :]  # the first ones warm up
        figures = {key: statistics.median(m[f"train/{key}"] for m in steps) for key in ("data_time", "step_time")}
        share = figures["data_time"] / figures["step_time"]
        work = f"drawn scenes of {side} pixels, {workers} loading processes"
        seconds = {f"{key} (s)": value for key, value in figures.items()}
        yield Entry("GPU waits for data, share", "the whole step", work, share, None, "below 0.05", seconds)


def entries() -> Iterator[Entry]:
    """Speed, memory, equality and input on the first GPU."""
    device = torch.device("cuda")
    yield from speed(device)
    yield from memory(device)
    yield from equality(device)
    yield from input_pipeline(device)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.stderr.write("error: no NVIDIA GPU is here\n")
        sys.exit(2)
    sys.exit(main(["gpu"], FOLDER / "results" / "gpu"))
