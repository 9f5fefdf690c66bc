"""Detect objects in image files, draw them to a picture an image, and print them as a table or as JSON.

    detr-predict IMAGE ... --checkpoint FILE

Exit codes: 0 done, 2 the input is wrong.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from detr.data.image import read_image
from detr.errors import ExitCode, InputError, run_command
from detr.inference.detector import Category, Detector, add_checkpoint_arguments, label_categories, open_detector
from detr.inference.draw import colour, draw_boxes

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def detections_above(
    result: dict[str, Tensor], threshold: float, categories: dict[int, Category]
) -> list[dict[str, Any]]:
    """List the detections with a score above the threshold, best first.

    result:   of `Detector.detect`
    returns   dicts of label, category_id (None if unknown), class (its name, else its label), score, box xyxy in pixels
    """
    found = []
    for score, label, box in zip(*(result[key].tolist() for key in ("scores", "labels", "boxes")), strict=True):
        if score > threshold:
            category = categories.get(label)
            name, id_ = (category.name, category.id) if category else (str(label), None)
            box = [round(v, 2) for v in box]
            found.append({"label": label, "category_id": id_, "class": name, "score": round(score, 4), "box": box})
    return found


def predict(
    detector: Detector, path: Path, picture: Path, threshold: float, categories: dict[int, Category]
) -> dict[str, Any]:
    """Detect on one image file and draw it; returns the entry of the JSON output."""
    image = read_image(path)
    result = detector.detect(image)
    found = detections_above(result, threshold, categories)
    boxes = torch.tensor([d["box"] for d in found]).reshape(-1, 4)
    captions = [f"{d['class']} {d['score']:.2f}" for d in found]
    drawn = draw_boxes(image, boxes, captions, [colour(d["label"]) for d in found])
    try:
        Image.fromarray(drawn.permute(1, 2, 0).numpy()).save(picture)
    except OSError as error:
        raise InputError(f"{picture}: the picture cannot be written ({error})") from None
    height, width = image.shape[-2:]
    return {"image": str(path), "width": width, "height": height, "picture": str(picture), "detections": found}


def picture_paths(images: list[Path], output: Path | None) -> list[Path]:
    """Choose the file of each image's picture; InputError if that would overwrite an image.

    output:  a folder (created; default: the working directory) for files <image>-detections.png, or for a single image
             the picture's own name
    """
    for image in images:
        if not image.is_file():
            raise InputError(f"{image}: the image file is missing")
    if output and output.suffix.lower() in SUFFIXES and not output.is_dir():
        if len(images) > 1:
            raise InputError(f"--output {output}: names one picture for {len(images)} images; give a folder")
        paths = [output]
    else:
        folder, paths = output or Path(), []
        for image in images:
            path, count = folder / f"{image.stem}-detections.png", 1
            while path in paths:  # images of one name from several folders
                count += 1
                path = folder / f"{image.stem}-detections-{count}.png"
            paths.append(path)
    for path in paths:
        if any(path.exists() and path.samefile(image) for image in images):
            raise InputError(f"--output {output or '.'}: the picture {path} would overwrite an input image")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--output {output}: the folder cannot be made ({error})") from None
    return paths


def table(result: dict[str, Any]) -> Table:
    """Table of the detections of one image for the terminal."""
    grid = Table()
    for header in ("class", "score", "left", "top", "right", "bottom"):
        grid.add_column(header, justify="left" if header == "class" else "right")
    for d in result["detections"]:
        grid.add_row(escape(d["class"]), f"{d['score']:.3f}", *(f"{v:.0f}" for v in d["box"]))
    return grid


def show(result: dict[str, Any], console: Console) -> None:
    """Print the detections of one image."""
    text = f"{result['image']}: {len(result['detections'])} detections, drawn to {result['picture']}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    if result["detections"]:
        console.print(table(result))


def build_parser() -> argparse.ArgumentParser:
    """Parser of the command's options."""
    parser = argparse.ArgumentParser(prog="detr-predict", description="Detect objects in image files and draw them.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files of any common format")
    add_checkpoint_arguments(parser)
    parser.add_argument("--threshold", type=float, default=0.5, metavar="P", help="least score shown (default: 0.5)")
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="COCO annotation file with the class names")
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help="folder of the pictures (default: .), or one picture's name"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Detect on all images, draw and print as the options say."""
    if not 0 <= options.threshold <= 1:
        raise InputError(f"--threshold {options.threshold:g}: must be in 0..1")
    console = Console(soft_wrap=options.json)
    pictures = picture_paths(options.images, options.output)
    detector = open_detector(options)
    categories = label_categories(detector, options.annotations, options.labels)
    results = []
    for image, picture in zip(options.images, pictures, strict=True):
        results.append(predict(detector, image, picture, options.threshold, categories))
        if not options.json:
            show(results[-1], console)
    if options.json:
        console.print(json.dumps(results, indent=1), markup=False, highlight=False)
    return ExitCode.DONE


if __name__ == "__main__":
    raise SystemExit(main())
