"""A store made by hand: no training, but all that runs leave behind."""

import json
import math
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag
from PIL import Image

from experiments.results.bootstrap import ap
from experiments.schema import names
from experiments.schema.store import Store, load_store
from experiments.tracking import client
from experiments.tracking.database import initialise

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("<script>alert(1)</script>", "a & b_c | 50 %", "naïve")
LEVELS = {"recipe": ["official", "abbreviated"], "clip": ["0.1", "1.0"]}
QUALITY = {"official": 3.0, "abbreviated": 1.0}  # pixels by which boxes are off
PLACE = ("step", "num_steps", "epoch", "samples", "seconds")
AREA_LIMITS = (100.0, 300.0)
NUM_IMAGES, WIDTH, HEIGHT, STEPS = 8, 64, 48, 20


def write_images(folder: Path) -> dict:
    """Images and their COCO annotations, two boxes each."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": c} for i, c in enumerate(CLASSES)]}
    for i in range(1, NUM_IMAGES + 1):
        Image.fromarray(rng.integers(80, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT})
        for j in range(2):
            box = [float(4 + 28 * j + i), float(5 + i), 20.0, 24.0]
            content["annotations"].append(
                {"id": len(content["annotations"]) + 1, "image_id": i, "category_id": (i + j) % 3 + 1, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
    return content


def detections(content: dict, off: float, seed: int) -> list[dict]:
    """Boxes near the true ones, and one at random in every image."""
    rng = np.random.default_rng(seed)
    found = []
    for i, one in enumerate(content["annotations"]):
        box = (np.array(one["bbox"]) + rng.normal(0, off, 4)).clip(1).round(3).tolist()
        score = round(float(rng.uniform(0.4, 0.95)), 4)
        place = {"image_id": one["image_id"], "category_id": one["category_id"], "query": i % 2}
        found.append(place | {"bbox": box, "score": score})
    for image in content["images"]:
        box = rng.uniform(5, 30, 4).round(3).tolist()
        found.append({"image_id": image["id"], "category_id": 1, "query": 2, "bbox": box, "score": 0.3})
    return found


def records(arm: dict, seed: int, final: float) -> list[dict]:
    """Lines of records.jsonl: a loss that falls, and an evaluation every fourth step."""
    lines = []
    for step in range(1, STEPS + 1):
        place = {"step": step, "num_steps": STEPS, "epoch": step / 2, "samples": 4 * step, "seconds": 0.5 * step}
        place["time"] = float(step)
        metrics = {
            "train/loss": 20 * math.exp(-step / 8) + 1 + 0.1 * seed,
            "train/grad_norm": 30.0 - step,
            "train/clip_fraction": 1.0,
            "train/clip_scale": float(arm["clip"]) / 30,
            "train/lr": 1e-4 if step < 16 else 1e-5,
            "train/lr_backbone": 1e-5,
            "train/wait_fraction": 0.05,
        }
        lines.append(place | {"metrics": metrics})
        if step % 4 == 0:
            # official: still falling at the end; abbreviated: flat
            late = 20.0 - 0.5 * step if arm["recipe"] == "official" else 12.0 + 5 / step
            metrics = {
                "val/loss": late,
                "val/AP": final * step / STEPS,
                "diagnostics/matching_instability": 6.0 - step / 5,
            }
            metrics |= {f"diagnostics/attention_entropy_{i}": 0.9 - step / 40 - 0.1 * i for i in range(2)}
            metrics |= {"diagnostics/prediction_variance_boxes": 0.4, "diagnostics/query_use": 0.6}
            lines.append(place | {"metrics": metrics})
    return lines


def design(images: Path, seeds: list[int]) -> dict:
    """The content of ablation.json, as an older version wrote it: without `metric`."""
    arms = {f"recipe={r},clip={c}": {"recipe": r, "clip": c} for r in LEVELS["recipe"] for c in LEVELS["clip"]}
    settings = {
        name: {"model.norm": "post" if arm["recipe"] == "official" else "pre",
               "optim.lr": 1e-4 if arm["recipe"] == "official" else 3e-4, "optim.clip_norm": float(arm["clip"])}
        for name, arm in arms.items()
    }  # fmt: skip
    return {
        "name": "lr_clip", "question": "Does R&D's recipe_1 cost AP?", "design": "factorial", "factors": LEVELS,
        "baseline": "recipe=official,clip=0.1", "primary": {"factor": "clip", "level": "1.0", "against": "0.1"},
        "margin": 1.0, "horizon": f"{STEPS} steps", "seeds": seeds, "arms": arms, "settings": settings,
        "images": str(images),
    }  # fmt: skip


class Builder:
    """Writes an ablation into a store as launch and worker do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "mlflow.yaml").write_text((ROOT / "mlflow.yaml").read_text())
        self.store: Store = load_store(folder / "mlflow.yaml")
        initialise(self.store)
        self.client = MlflowClient(self.store.tracking_uri)
        location = (folder / "artifacts").as_uri()
        self.experiment = self.client.create_experiment(self.store.ablations, artifact_location=location)
        self.content = write_images(folder / "val")
        self.made = 0

    def run(self, tags: dict, params: dict, points: list[tuple[str, float, int]], files: dict[str, str]) -> str:
        """One run of MLflow with points (metric, value, step); its id."""
        self.made += 1
        run_id = self.client.create_run(self.experiment, start_time=self.made).info.run_id
        entries = [Metric(key, value, step, step) for key, value, step in points]
        pairs = [Param(key, str(value)) for key, value in params.items()]
        self.client.log_batch(run_id, entries, pairs, [RunTag(key, value) for key, value in tags.items()])
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        for name, text in files.items():
            (scratch / name).write_text(text)
            self.client.log_artifact(run_id, str(scratch / name))
        if (status := client.STATUS[tags[names.STATE]]) != RunStatus.RUNNING:
            self.client.set_terminated(run_id, RunStatus.to_string(status))
        return run_id

    def ablation(self, num_seeds: int, missing: tuple = (), failed: tuple = (), silent: tuple = (), **changes) -> str:
        """An ablation of 2 x 2 arms; runs (arm, seed) in `missing` were never made, those in `failed` diverged, and
        those in `silent` left no predictions. The parent's id.
        """
        plan = design(self.folder / "val", list(range(num_seeds))) | changes
        folder = self.folder / "runs" / f"lr_clip.{self.made}"
        state = "failed" if failed else "running" if missing else "finished"
        tags = {names.ABLATION: plan["name"], names.RUN_DIRECTORY: str(folder), names.STATE: state}
        files = {names.DESIGN: json.dumps(plan), names.ANNOTATIONS: json.dumps(self.content)}
        parent = self.run(tags, {}, [], files)
        for seed in range(num_seeds):
            for arm, levels in plan["arms"].items():
                if (arm, seed) not in missing:
                    self.child(parent, arm, levels, seed, (arm, seed) in failed, (arm, seed) in silent)
        return parent

    def child(self, parent: str, arm: str, levels: dict, seed: int, failed: bool, silent: bool) -> str:
        """One run of an arm; its id."""
        found = detections(self.content, QUALITY[levels["recipe"]], 2 * seed + (levels["clip"] == "1.0"))
        kinds = ("AP", "AP50", "AP75", "APL", *(f"AP/{name}" for name in CLASSES))
        scores = {name: ap(self.content, found, metric=name, area_limits=AREA_LIMITS) for name in kinds}
        lines = records(levels, seed, scores["AP"])
        tags = {
            "mlflow.parentRunId": parent, names.ARM: arm, names.SEED: str(seed), names.FINGERPRINT: "f",
            names.STATE: "failed" if failed else "finished",
            names.ERROR: "NonFiniteLoss: step 9: the loss is nan" if failed else "",
        }  # fmt: skip
        params = {
            "schedule.full_epochs": 500.0,
            "evaluation.area_limits": str(list(AREA_LIMITS)),
            "model.hidden_dim": 32,
        }
        points = [(key, value, line["step"]) for line in lines for key, value in line["metrics"].items()]
        points += [(f"progress/{key}", line[key], line["step"]) for line in lines for key in PLACE]
        points += [(names.stored_metric(f"val/{name}"), value, STEPS) for name, value in scores.items() if name != "AP"]
        files = {names.RECORDS: "".join(json.dumps(line) + "\n" for line in lines)}
        if not failed and not silent:
            files[names.PREDICTIONS] = json.dumps(found)
        return self.run(tags, params, [] if failed else points, files)
