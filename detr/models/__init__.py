"""The detector and its parts."""

from detr.classification import Classification, Softmax
from detr.config import CheckpointActivations, ModelConfig
from detr.errors import InputError
from detr.models.activations import CheckpointedStack
from detr.models.backbone import build_backbone
from detr.models.detr import DETR
from detr.models.position_encoding import LearnedPositionEmbedding, SinePositionEmbedding

__all__ = ["DETR", "build_model"]


def build_model(
    config: ModelConfig,
    classification: Classification | None = None,
    checkpoint_activations: CheckpointActivations = "none",
) -> DETR:
    """Assemble the detector. InputError when `num_classes` is None: take it from the data first.

    classification:          convention of the class head; by default Softmax
    checkpoint_activations:  parts that recompute their activations in the backward pass, see `train` in detr.config
    """
    if config.num_classes is None:
        raise InputError("model.num_classes=None: the data set's number of classes must be filled in first")
    sine = config.position_embedding == "sine"
    position = SinePositionEmbedding(config.hidden_dim) if sine else LearnedPositionEmbedding(config.hidden_dim)
    model = DETR(build_backbone(config), position, config, config.num_classes, classification or Softmax())
    checkpointed = {"none": None, "backbone": model.backbone, "all": model}[checkpoint_activations]
    for module in checkpointed.modules() if checkpointed else ():
        if isinstance(module, CheckpointedStack):
            module.checkpoint_activations = True
    return model
