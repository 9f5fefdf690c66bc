"""Diagnostics of a validation pass, gathered from the outputs that it computes anyway.

The outputs alone are needed. Signals of parts that a model does not have, such as a decoder's attention, are left out.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from detr.boxes import cxcywh_to_xyxy
from detr.config import EvaluationConfig
from detr.data.batch import Batch
from detr.data.coco import CocoDetection
from detr.diagnostics.attention_maps import AttentionMaps
from detr.diagnostics.formulas import (
    Variance,
    assigned_targets,
    attention_entropy,
    duplicates,
    instability,
    prediction_variance,
)
from detr.evaluation import coco_results, evaluate_coco
from detr.matcher import HungarianMatcher, stack_layers
from detr.postprocess import postprocess

PROBE_SEED = 0  # not the run's: all arms and seeds of an ablation look at the same images


def attention_to_image(model: nn.Module) -> Iterator[tuple[int, Any]]:
    """Find the decoder layers' attention to the image, by layer, as far as it is a distribution over all tokens.

    Sparse attention is none, and a user's model may have no decoder.
    """
    decoder = getattr(getattr(model, "transformer", None), "decoder", None)
    for i, layer in enumerate(getattr(decoder, "layers", ())):
        attention = getattr(layer, "multihead_attn", None)
        if hasattr(attention, "weights"):
            yield i, attention


class ValidationWatch:
    """Observer of a validation pass: called with every batch and the model's outputs, asked for `signals` after it.

    A context manager: inside the block it sees the inputs of the decoder's attention to the image, whose weights the
    fused kernel does not give, and computes them again for the probe images. Matchings cover all validation images.
    """

    def __init__(
        self, model: nn.Module, matcher: HungarianMatcher, dataset: CocoDetection, probe_images: int, keep_layers: bool
    ) -> None:
        """`keep_layers`: keep the detections of the decoder layers before the last as well, for `layer_AP`."""
        self.model, self.matcher, self.dataset, self.keep_layers = model, matcher, dataset, keep_layers
        generator = torch.Generator().manual_seed(PROBE_SEED)
        chosen = torch.randperm(len(dataset), generator=generator)[:probe_images].tolist()
        self.probes = {dataset.images[i]["id"] for i in chosen}
        self.handles: list[RemovableHandle] = []
        self.attention = dict(attention_to_image(model))  # by decoder layer
        self.attended: dict[int, tuple[Any, ...]] = {}  # decoder layer -> inputs of its attention to the image
        self.entropy: dict[int, list[Tensor]] = {}
        self.maps = AttentionMaps(layer=max(self.attention, default=0))
        self.assigned: list[Tensor] = []  # (L, B, Q) of each batch
        self.no_object: list[Tensor] = []  # (B, Q) of each batch
        self.detections = self.duplicates = 0
        self.boxes, self.classes, self.objects = Variance(), Variance(), Variance()
        self.layers: list[list[tuple[int, dict[str, Tensor]]]] = []  # layer -> image id and results

    def __enter__(self) -> "ValidationWatch":
        for i, attention in self.attention.items():

            def keep(_module: nn.Module, inputs: tuple[Any, ...], i: int = i) -> None:
                self.attended[i] = inputs

            self.handles.append(attention.register_forward_pre_hook(keep))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self.handles:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process has itself, and keep what was seen."""
        own = ("model", "matcher", "dataset", "handles", "attention", "attended")
        return {k: v for k, v in vars(self).items() if k not in own}

    def extend(self, later: "ValidationWatch") -> None:
        """Append another process's observations of the images that follow those seen here."""
        for layer, values in later.entropy.items():
            self.entropy.setdefault(layer, []).extend(values)
        self.maps.extend(later.maps)
        self.assigned += later.assigned
        self.no_object += later.no_object
        self.detections, self.duplicates = self.detections + later.detections, self.duplicates + later.duplicates
        for own, other in ((self.boxes, later.boxes), (self.classes, later.classes), (self.objects, later.objects)):
            own.merge(other)
        if self.layers and later.layers:
            self.layers = [own + other for own, other in zip(self.layers, later.layers, strict=True)]
        else:  # one of them saw no image
            self.layers = self.layers or later.layers

    @torch.no_grad()
    def __call__(self, batch: Batch, outputs: dict[str, Any]) -> None:
        """Take in a batch, whose targets have image_id, size, labels and boxes, and the model's outputs for it."""
        logits, boxes = stack_layers(outputs)
        matches = self.matcher.match_layers(logits, boxes, batch.targets)
        self.assigned.append(assigned_targets(matches, logits.shape[2]))
        logits, boxes = logits[-1].float(), boxes[-1].float().cpu()  # (B, Q, K), (B, Q, 4)
        probabilities = self.matcher.classification.probabilities(logits).cpu()  # (B, Q, C)
        no_object = self.matcher.classification.no_object(logits).cpu()  # (B, Q)
        self.no_object.append(no_object)
        self.classes.add(torch.cat([probabilities, no_object[..., None]], dim=-1))
        self.boxes.add(boxes)
        self.objects.add(torch.cat([t["boxes"] for t in batch.targets]))
        scores, labels = probabilities.max(-1)
        self._look_at_attention(batch, scores)
        found = duplicates(scores, labels, cxcywh_to_xyxy(boxes))
        self.detections, self.duplicates = self.detections + found[0], self.duplicates + found[1]
        if self.keep_layers:
            self._keep_detections(batch, outputs["aux_outputs"])

    def _look_at_attention(self, batch: Batch, scores: Tensor) -> None:
        """Entropy of every layer and maps of the last, for the probes among the images; scores (B, Q)."""
        rows = [i for i, target in enumerate(batch.targets) if target["image_id"] in self.probes]
        for layer, (queries, memory) in self.attended.items():
            if rows:
                (size,), mask = memory.level_shapes, memory.padding_mask[rows]
                queries = queries._replace(tokens=queries.tokens[rows], position=queries.position[rows])
                memory = memory._replace(tokens=memory.tokens[rows], position=memory.position[rows], padding_mask=mask)
                weights = self.attention[layer].weights(queries, memory).float()
                self.entropy.setdefault(layer, []).append(attention_entropy(weights, mask).cpu())
                if layer == self.maps.layer:
                    for i, maps in zip(rows, weights.unflatten(-1, size), strict=True):  # (heads, Q, h, w)
                        self.maps.add(batch.targets[i]["image_id"], maps, scores[i], batch.padding_mask[i])
        self.attended.clear()

    def _keep_detections(self, batch: Batch, layers: list[dict[str, Tensor]]) -> None:
        sizes = torch.stack([t["size"] for t in batch.targets])
        self.layers = self.layers or [[] for _ in layers]
        for kept, outputs in zip(self.layers, layers, strict=True):
            results = postprocess(outputs, sizes, self.matcher.classification)
            for target, result in zip(batch.targets, results, strict=True):
                kept.append((target["image_id"], {name: x.cpu() for name, x in result.items()}))

    @property
    def matching(self) -> Tensor:
        """(N, Q) int16, the last layer's object of each query or -1; images in the order of the pass."""
        return torch.cat([a[-1] for a in self.assigned])

    def signals(self, earlier: Tensor | None) -> dict[str, float]:
        """Compute all signals by name; `earlier` is the `matching` of the evaluation before, of the same images."""
        matching, no_object = self.matching, torch.cat(self.no_object).double()
        matched = matching >= 0
        found = {f"attention_entropy_{i}": torch.cat(x).nanmean().item() for i, x in self.entropy.items()}
        if earlier is not None:
            found["matching_instability"] = instability(earlier, matching).item()
        layers = torch.cat(self.assigned, dim=1)  # (L, N, Q)
        for i, value in enumerate(instability(layers[:-1], layers[1:]).tolist()):
            found[f"layer_instability_{i}"] = value
        found["query_use"] = matched.any(0).double().mean().item()
        found["no_object_matched"] = no_object[matched].mean().item()
        found["no_object_unmatched"] = no_object[~matched].mean().item()
        if self.detections:
            found["duplicates"] = self.duplicates / self.detections
        return found | prediction_variance(self.boxes, self.classes, self.objects)

    def layer_AP(self, config: EvaluationConfig, last_AP: float) -> dict[str, float]:
        """Compute COCO AP in 0..1 of each decoder layer, if `keep_layers`; `last_AP` of the last is known already."""
        if not self.keep_layers or last_AP < 0:  # -1: no object to find
            return {}
        found = []
        for results in self.layers:  # one layer's detections as dicts at a time: COCO's are a gigabyte
            detections = [d for image_id, result in results for d in coco_results(image_id, self.dataset, result)]
            metrics = evaluate_coco(self.dataset.annotations, detections, config.area_limits, config.backend)
            found.append(metrics["AP"])
        return {f"AP_layer_{i}": ap for i, ap in enumerate([*found, last_AP])}
