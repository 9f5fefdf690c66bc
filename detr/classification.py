"""The two ways to read class logits, each with its head, cost, loss and detections.

No other module knows whether there is a column for no-object. In what follows K is the number of logits of a query:
C + 1 for `Softmax`, C for `Focal`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detr.config import LossConfig


class Detections(NamedTuple):
    """The detections of each image, N of them."""

    scores: Tensor  # (B, N) in 0..1
    labels: Tensor  # (B, N)
    query: Tensor  # (B, N), the index of the query that each comes from


class Classification(ABC):
    """The convention of the class logits."""

    initial_bias: float | None = None  # of the class head; None keeps PyTorch's default

    @abstractmethod
    def num_logits(self, num_classes: int) -> int:
        """Width K of the class head."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class: (..., K) -> (..., C)."""

    @abstractmethod
    def no_object(self, logits: Tensor) -> Tensor:
        """Probability that a query shows no object: (..., K) -> (...)."""

    @abstractmethod
    def cost(self, logits: Tensor) -> Tensor:
        """Cost of matching a query to an object of each class: (..., K) -> (..., C)."""

    @abstractmethod
    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Loss of each query, not normalised: logits (N, K), classes (N,) with C for no object -> (N,)."""

    @abstractmethod
    def denominator(self, num_objects: Sequence[int], num_queries: int) -> float:
        """Divisor of the summed loss of a decoder layer, from the number of objects of every image."""

    @abstractmethod
    def detections(self, logits: Tensor) -> Detections:
        """Detections of the class logits (B, Q, K)."""

    def num_predicted(self, logits: Tensor) -> Tensor:
        """Queries that predict an object: (..., Q, K) -> (...); for the log alone.

        The official programs count the queries whose best column is not the last, also where the last is a class.
        """
        return (logits[..., :-1].amax(-1) >= logits[..., -1]).sum(-1)


@dataclass(frozen=True)
class Softmax(Classification):
    """Exclusive classes and a last column for no-object (facebookresearch/detr)."""

    no_object_weight: float = 0.1

    def num_logits(self, num_classes: int) -> int:
        """C + 1."""
        return num_classes + 1

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over all columns, without the last."""
        return logits.softmax(-1)[..., :-1]

    def no_object(self, logits: Tensor) -> Tensor:
        """Probability of the last column."""
        return logits.softmax(-1)[..., -1]

    def cost(self, logits: Tensor) -> Tensor:
        """-p."""
        return -self.probabilities(logits)

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Weighted cross-entropy."""
        weight = logits.new_ones(logits.shape[-1])
        weight[-1] = self.no_object_weight
        return F.cross_entropy(logits, classes, weight, reduction="none")

    def denominator(self, num_objects: Sequence[int], num_queries: int) -> float:
        """Sum of the weights of all queries, which makes the loss a weighted mean."""
        matched = sum(min(n, num_queries) for n in num_objects)
        empty = len(num_objects) * num_queries - matched
        return matched + empty * self.no_object_weight or 1.0  # 0 without any object and with a weight of 0

    def detections(self, logits: Tensor) -> Detections:
        """One detection a query, of its best class that is not no-object."""
        scores, labels = self.probabilities(logits).max(-1)
        return Detections(scores, labels, torch.arange(logits.shape[1], device=logits.device).expand_as(labels))


@dataclass(frozen=True)
class Focal(Classification):
    """Independent classes without a no-object column (Lin et al., 2017; Deformable DETR)."""

    alpha: float = 0.25  # weight of the positive term; the negative one has 1 - alpha
    gamma: float = 2.0
    max_detections: int = 100  # of an image
    initial_bias = -math.log(99)  # every class starts at a probability of 0.01

    def num_logits(self, num_classes: int) -> int:
        """C."""
        return num_classes

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid of each column."""
        return logits.sigmoid()

    def no_object(self, logits: Tensor) -> Tensor:
        """1 - the probability of the best class."""
        return 1 - logits.amax(-1).sigmoid()

    def cost(self, logits: Tensor) -> Tensor:
        """Loss with the class minus loss without it, with the official 1e-8 in the logarithms."""
        p = logits.sigmoid()
        positive = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
        negative = (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        return positive - negative

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Focal loss, summed over the classes."""
        is_class = (classes[:, None] == torch.arange(logits.shape[-1], device=logits.device)).to(logits.dtype)  # (N, C)
        p = logits.sigmoid()
        error = is_class * (1 - p) + (1 - is_class) * p  # 1 - the probability of what is true
        alpha = is_class * self.alpha + (1 - is_class) * (1 - self.alpha)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, is_class, reduction="none")
        return (alpha * error**self.gamma * cross_entropy).sum(-1)

    def denominator(self, num_objects: Sequence[int], num_queries: int) -> float:
        """Number of objects, at least 1."""
        return max(float(sum(num_objects)), 1.0)

    def detections(self, logits: Tensor) -> Detections:
        """The best of all queries and classes, best first; a query may show several classes."""
        num_classes = logits.shape[-1]
        scores = self.probabilities(logits).flatten(1)  # (B, Q * C)
        scores, index = scores.topk(min(self.max_detections, scores.shape[1]), dim=1)
        return Detections(scores, index % num_classes, index // num_classes)


def build_classification(config: LossConfig) -> Classification:
    """Choose the convention of `loss.classification`."""
    return Focal() if config.classification == "focal" else Softmax(config.no_object_weight)
