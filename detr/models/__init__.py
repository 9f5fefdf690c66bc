"""The detector and its parts."""

from detr.config import ModelConfig
from detr.errors import InputError
from detr.models.attention import ATTENTION
from detr.models.backbone import build_backbone
from detr.models.detr import DETR
from detr.models.position_encoding import POSITION_EMBEDDINGS
from detr.models.transformer import Transformer

__all__ = ["DETR", "build_model"]


def build_model(config: ModelConfig) -> DETR:
    """Assemble the detector. InputError when `num_classes` is None: take it from the data first."""
    if config.num_classes is None:
        raise InputError("model.num_classes=None: the data set's number of classes must be filled in first")
    backbone = build_backbone(config)
    position = POSITION_EMBEDDINGS[config.position_embedding](config.hidden_dim)
    return DETR(backbone, position, Transformer(config, ATTENTION["dense"]), config.num_classes, config.num_queries)
