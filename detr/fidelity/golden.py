"""Compare this implementation with figures of the official code: `detr-fidelity [FILE]`.

The figures that ship with the package were computed by facebookresearch/detr at commit 29901c5, in float32 on a CPU.
Weights and inputs are drawn from seeds, so that a file of figures needs no checkpoint beside it:

    weight      a generator seeded with crc32(name), scaled by the kind of parameter (see `draw_weights`)
    input       a generator seeded with the case's seed: all images, then centres, sizes and labels image by image

Exit codes: 0 all figures agree, 1 one is off, 2 the file is missing or broken.
"""

import argparse
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from detr.config import LossConfig, ModelConfig
from detr.criterion import SetCriterion
from detr.data.batch import pad_images
from detr.errors import ExitCode, InputError, run_command
from detr.models import build_model
from detr.optim import build_optimizer, clip_gradients
from detr.postprocess import postprocess

GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-4  # of |ours - official| / (1 + |official|)
TOLERANCE_LATER_STEPS = 2e-3  # Adam's division by the gradient's size enlarges rounding
NUM_CLASSES = {"coco": 91, "coco_panoptic": 250}  # official --dataset_file; any other has 20
NUMBER = (int, float)
KEYS: dict[str, type | tuple[type, ...]] = {
    "args": list, "image_sizes": list, "seed": int, "num_boxes": list, "lr": NUMBER, "clip": NUMBER, "dropout": NUMBER,
    "trainable": int, "total": int, "state_dict_shapes": dict, "steps": list, "pred_logits_query0": list,
    "pred_boxes_first3": list, "pred_logits_sum": NUMBER, "pred_boxes_sum": NUMBER, "matched": list,
    "postprocess_sizes": list, "postprocess": list,
}  # fmt: skip


class Comparison(NamedTuple):
    """One row of the table: a group of figures of one case."""

    case: str
    quantity: str
    num_values: int
    difference: float  # the largest of |ours - official| / (1 + |official|); inf where we have no such figure
    where: str  # the figure that differs most
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether all figures are within the tolerance; a NaN is not."""
        return self.difference <= self.tolerance


def read_cases(path: Path) -> dict[str, dict[str, Any]]:
    """Read the cases of a file of figures; InputError when it is not one."""
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file of figures") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(cases, dict) or not cases:
        raise InputError(f"{path}: must be a JSON object of named cases")
    for name, case in cases.items():
        try:
            check_case(case)
        except InputError as error:
            raise InputError(f"{path}: case {name!r}: {error}") from None
    return cases


def check_case(case: Any) -> None:
    """InputError when a case lacks a key or its parts do not fit each other."""
    if not isinstance(case, dict):
        raise InputError("must be an object")
    for key, kind in KEYS.items():
        if not isinstance(case.get(key), kind):
            raise InputError(f"{key} is missing" if key not in case else f"{key} is {case[key]!r}")
    sizes, counts = case["image_sizes"], case["num_boxes"]
    for key, pairs in {"image_sizes": sizes, "postprocess_sizes": case["postprocess_sizes"]}.items():
        if not (pairs and all(is_list_of_counts(pair, least=1) and len(pair) == 2 for pair in pairs)):
            raise InputError(f"{key} must be pairs of height and width in pixels")
    if not (is_list_of_counts(counts, least=0) and len(counts) == len(sizes) == len(case["postprocess_sizes"])):
        raise InputError("image_sizes, num_boxes and postprocess_sizes must have one entry an image")
    if not all(
        isinstance(pair, list) and len(pair) == 2 and all(map(is_list_of_counts, pair)) for pair in case["matched"]
    ):
        raise InputError("matched must be pairs of index lists")
    steps = case["steps"]
    if not (steps and all(isinstance(step, dict) and {"loss", "grad_norm"} <= step.keys() for step in steps)):
        raise InputError("steps must be objects with loss and grad_norm")
    if not all(isinstance(steps[0].get(key), dict) for key in ("losses", "grad_norms")):
        raise InputError("the first step must have losses and grad_norms by name")


def is_list_of_counts(values: Any, least: int = 0) -> bool:
    """Whether `values` is a list of integers, none below `least`."""
    return isinstance(values, list) and all(type(value) is int and value >= least for value in values)


def compare(name: str, case: dict[str, Any]) -> list[Comparison]:
    """Compute a case with this implementation and compare it with its figures."""
    try:
        official, ours = quantities(case), quantities(measure(case))
        return [compare_values(name, key, official[key], ours[key]) for key in official]
    except InputError as error:
        raise InputError(f"case {name!r}: {error}") from None


def compare_values(name: str, quantity: str, official: Any, ours: Any) -> Comparison:
    """Compare nested lists and dicts of numbers, as far as the official ones go."""
    tolerance = {"parameters": 0.0, "names and shapes": 0.0, "matching": 0.0}.get(quantity, TOLERANCE)
    if quantity.startswith("step ") and quantity != "step 1":
        tolerance = TOLERANCE_LATER_STEPS
    expected, found = dict(leaves(official)), dict(leaves(ours))
    differences = {
        path: abs(found[path] - value) / (1 + abs(value)) if path in found else math.inf
        for path, value in expected.items()
    }
    # NaN compares with nothing: it counts as the largest difference
    where = max(differences, key=lambda path: (math.isnan(differences[path]), differences[path]), default="")
    return Comparison(name, quantity, len(differences), differences.get(where, 0.0), where, tolerance)


def quantities(case: dict[str, Any]) -> dict[str, Any]:
    """Group the figures of a case by the name that the table shows."""
    steps, has_objects = case["steps"], sum(case["num_boxes"]) > 0
    # The official code logs a class error of 100 when there is nothing to classify; here it is undefined.
    losses = {k: v for k, v in steps[0]["losses"].items() if has_objects or k != "class_error"}
    auxiliary = {k: v for k, v in losses.items() if k[-1].isdigit()}
    return {
        "parameters": {"trainable": case["trainable"], "total": case["total"]},
        "names and shapes": {"names": len(case["state_dict_shapes"]), **case["state_dict_shapes"]},
        "logits": {"query 0": case["pred_logits_query0"], "sum": case["pred_logits_sum"]},
        "boxes": {"queries 0-2": case["pred_boxes_first3"], "sum": case["pred_boxes_sum"]},
        "matching": [{"pairs": len(queries), "indices": [queries, objects]} for queries, objects in case["matched"]],
        "post-processing": case["postprocess"],
        "losses": {k: v for k, v in losses.items() if k not in auxiliary},
        "auxiliary losses": auxiliary,
        "gradient norms": steps[0]["grad_norms"],
        **{f"step {i}": {k: step[k] for k in ("loss", "grad_norm")} for i, step in enumerate(steps, start=1)},
    }


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested dicts and lists with their paths."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path} {key}".strip())
    elif isinstance(value, int | float):
        yield path, float(value)
    elif value is not None:
        raise InputError(f"{path} is {value!r}, not a number")


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Compute a case with this implementation, in the structure of the file of figures."""
    arguments = parse_arguments(case["args"])
    torch.manual_seed(0)  # of the weights that are drawn anew, so that nothing here depends on the caller
    model = build_model(model_config(arguments, dropout=case["dropout"]))
    draw_weights(model)
    criterion = SetCriterion(model.num_classes, loss_config(arguments))
    backbone_lr = case["lr"] / 10 if arguments.lr_backbone > 0 else 0.0
    optimizer = build_optimizer(model, case["lr"], backbone_lr, arguments.weight_decay)
    images, targets = draw_inputs(case)
    batch = pad_images(images)
    figures = {
        "num_boxes": case["num_boxes"],
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total": sum(p.numel() for p in model.parameters()),
        "state_dict_shapes": {name: list(x.shape) for name, x in model.state_dict().items()},
        **describe(model(*batch), targets, criterion, case["postprocess_sizes"]),
        "steps": [],
    }
    for step in range(len(case["steps"])):
        losses = criterion(model(*batch), targets)
        total = criterion.total(losses)
        optimizer.zero_grad()
        total.backward()
        norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
        norm = clip_gradients(model.parameters(), case["clip"]).item()
        optimizer.step()
        figures["steps"].append({"loss": total.item(), "grad_norm": norm})
        if step == 0:
            figures["steps"][0] |= {"losses": {k: v.item() for k, v in losses.items()}, "grad_norms": norms}
    return figures


def describe(
    outputs: dict[str, Any], targets: list[dict[str, Tensor]], criterion: SetCriterion, sizes: list[tuple[int, int]]
) -> dict[str, Any]:
    """Compute the figures of a forward pass."""
    logits, boxes = outputs["pred_logits"].detach(), outputs["pred_boxes"].detach()
    detections = postprocess(outputs, sizes)
    return {
        "pred_logits_query0": logits[:, 0].tolist(),
        "pred_boxes_first3": boxes[:, :3].tolist(),
        "pred_logits_sum": logits.double().sum().item(),
        "pred_boxes_sum": boxes.double().sum().item(),
        "matched": [[i.tolist() for i in pair] for pair in criterion.matcher(outputs, targets)],
        "postprocess": [{key: value.tolist() for key, value in image.items()} for image in detections],
    }


@torch.no_grad()
def draw_weights(model: nn.Module) -> None:
    """Fill parameters and buffers with numbers that depend on their official names alone."""
    for name, tensor in model.state_dict().items():
        r = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        is_norm = any(part in name for part in ("norm", ".bn", "downsample.1"))
        if name.endswith("running_var"):
            r = 1 + 0.1 * r.abs()
        elif name.endswith("running_mean"):
            r = 0.1 * r
        elif tensor.dim() > 1:
            r = r * 0.8 / math.sqrt(tensor[0].numel())
        elif is_norm and name.endswith("weight"):
            r = 1 + 0.1 * r
        else:
            r = 0.02 * r
        tensor.copy_(r)


def draw_inputs(case: dict[str, Any]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Draw the images (3, h, w) and targets of a case."""
    generator = torch.Generator().manual_seed(case["seed"])
    images = [torch.randn(3, *size, generator=generator) for size in case["image_sizes"]]
    targets = []
    for n in case["num_boxes"]:
        centres = 0.2 + 0.6 * torch.rand(n, 2, generator=generator)
        sizes = 0.05 + 0.3 * torch.rand(n, 2, generator=generator)
        labels = torch.randint(1, 91, (n,), generator=generator)
        targets.append({"labels": labels, "boxes": torch.cat([centres, sizes], dim=1)})
    return images, targets


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"args: {message}")


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the official command-line flags that change a figure; InputError on any other."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    defaults = {
        "backbone": "resnet50", "position_embedding": "sine", "dataset_file": "coco",
        "enc_layers": 6, "dec_layers": 6, "dim_feedforward": 2048, "hidden_dim": 256, "nheads": 8, "num_queries": 100,
        "lr_backbone": 1e-5, "weight_decay": 1e-4, "set_cost_class": 1.0, "set_cost_bbox": 5.0, "set_cost_giou": 2.0,
        "bbox_loss_coef": 5.0, "giou_loss_coef": 2.0, "eos_coef": 0.1,
    }  # fmt: skip
    for flag, default in defaults.items():
        parser.add_argument(f"--{flag}", type=type(default), default=default)
    for flag in ("dilation", "pre_norm", "no_aux_loss"):
        parser.add_argument(f"--{flag}", action="store_true")
    # The case itself states the first three; the others change nothing here.
    for flag in ("lr", "clip_max_norm", "dropout", "device", "batch_size", "seed", "coco_path", "output_dir"):
        parser.add_argument(f"--{flag}")
    return parser.parse_args(arguments)


def model_config(arguments: argparse.Namespace, dropout: float) -> ModelConfig:
    """Translate the official flags to our names."""
    return ModelConfig(
        backbone=arguments.backbone,
        dilation=arguments.dilation,
        pretrained=False,
        position_embedding=arguments.position_embedding,
        hidden_dim=arguments.hidden_dim,
        num_heads=arguments.nheads,
        num_encoder_layers=arguments.enc_layers,
        num_decoder_layers=arguments.dec_layers,
        dim_feedforward=arguments.dim_feedforward,
        dropout=dropout,
        norm="pre" if arguments.pre_norm else "post",
        num_queries=arguments.num_queries,
        num_classes=NUM_CLASSES.get(arguments.dataset_file, 20),
    )


def loss_config(arguments: argparse.Namespace) -> LossConfig:
    """Translate the official flags to our names."""
    return LossConfig(
        cost_class=arguments.set_cost_class,
        cost_bbox=arguments.set_cost_bbox,
        cost_giou=arguments.set_cost_giou,
        weight_bbox=arguments.bbox_loss_coef,
        weight_giou=arguments.giou_loss_coef,
        no_object_weight=arguments.eos_coef,
        aux_loss=not arguments.no_aux_loss,
    )


def table(comparisons: list[Comparison]) -> Table:
    """Lay out the comparisons for the terminal."""
    grid = Table(title="difference from the official DETR, relative to 1 + |value|")
    for header in ("quantity", "figures", "largest", "at", "allowed", "verdict"):
        is_number = header in ("figures", "largest", "allowed")
        grid.add_column(header, justify="right" if is_number else "left", no_wrap=header != "at", overflow="fold")
    for name in dict.fromkeys(row.case for row in comparisons):
        grid.add_section()
        grid.add_row(f"[bold]{escape(name)}[/bold]")
        for row in comparisons:
            if row.case == name:
                verdict = "[green]ok[/green]" if row.holds else "[bold red]off[/bold red]"
                where = escape(row.where) if row.difference else ""
                allowed = f"{row.tolerance:.0e}" if row.tolerance else "exact"
                grid.add_row(f"  {row.quantity}", str(row.num_values), f"{row.difference:.1e}", where, allowed, verdict)
    return grid


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="detr-fidelity", description="Compare with figures of the official DETR.")
    parser.add_argument(
        "file", nargs="?", type=Path, default=GOLDEN, help="figures to compare with (default: those shipped)"
    )
    path = parser.parse_args(argv).file
    return run_command(lambda: print_comparisons(path))


def print_comparisons(path: Path) -> int:
    """Compare with the figures of a file and print the table; returns the exit code."""
    torch.set_num_threads(1)  # images are small, and on a busy machine threads only wait for each other
    comparisons = [row for name, case in read_cases(path).items() for row in compare(name, case)]
    console = Console()
    console.print(table(comparisons))
    off = [row for row in comparisons if not row.holds]
    num_values = sum(row.num_values for row in comparisons)
    verdict = f"{len(off)} of {len(comparisons)} quantities are off" if off else "all within tolerance"
    console.print(f"{num_values} figures: {verdict}")
    return ExitCode.FAILED if off else ExitCode.DONE


if __name__ == "__main__":
    raise SystemExit(main())
