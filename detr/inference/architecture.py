"""Architecture of a checkpoint, read from the names and shapes of its weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detr.config import ModelConfig
from detr.errors import InputError

BODY = "backbone.0.body."
RESNETS = {  # (has bottleneck blocks, blocks of layer3)
    (False, 2): "resnet18",
    (False, 6): "resnet34",
    (True, 6): "resnet50",
    (True, 23): "resnet101",
}


def infer_model_config(state: Mapping[str, Tensor], num_heads: int = 8, dilation: bool = False) -> ModelConfig:
    """Infer the settings of the model with this state dict; InputError if this project builds none like it.

    Neither the number of heads nor the dilation of a DC5 model leaves a trace in the weights: they must be told.
    """
    num_classes, hidden_dim = _shape(state, "class_embed.weight", 2)
    num_queries, _ = _shape(state, "query_embed.weight", 2)
    dim_feedforward, _ = _shape(state, "transformer.decoder.layers.0.linear1.weight", 2)
    if num_heads < 1 or hidden_dim % num_heads:
        raise InputError(f"num_heads={num_heads}: the checkpoint's width of {hidden_dim} does not divide by it")
    return ModelConfig(
        **_backbone(state),
        dilation=dilation,
        pretrained=False,
        position_embedding="learned" if "backbone.1.row_embed.weight" in state else "sine",
        hidden_dim=hidden_dim,
        num_heads=num_heads,
        num_encoder_layers=_count(state, "transformer.encoder.layers."),
        num_decoder_layers=_count(state, "transformer.decoder.layers."),
        dim_feedforward=dim_feedforward,
        norm="pre" if "transformer.encoder.norm.weight" in state else "post",
        num_queries=num_queries,
        num_classes=num_classes - 1,  # without no-object
    )


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of the backbone."""
    if f"{BODY}0.0.weight" in state:
        num_blocks = len({name.split(".")[3] for name in state if name.startswith(BODY) and ".branch." in name})
        if num_blocks not in (2, 3):
            raise InputError(f"the checkpoint's small backbone has {num_blocks} residual stages; there are 2 or 3")
        return {
            "backbone": "small",
            "backbone_width": _shape(state, f"{BODY}0.0.weight", 4)[0],
            "backbone_stride": {2: 8, 3: 16}[num_blocks],
            "backbone_norm": "batch" if f"{BODY}0.1.running_mean" in state else "group",
        }
    kind = (f"{BODY}layer1.0.conv3.weight" in state, _count(state, f"{BODY}layer3."))
    if kind not in RESNETS:
        raise InputError(
            f"the checkpoint's backbone is unknown ({kind[1]} blocks in layer3); "
            f"there are {', '.join(RESNETS.values())} and small"
        )
    return {"backbone": RESNETS[kind]}


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of numbered modules below `prefix`."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _shape(state: Mapping[str, Tensor], name: str, num_dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise InputError(f"the checkpoint is no DETR: it lacks {name} (it begins with {', '.join(list(state)[:3])})")
    if state[name].dim() != num_dimensions:
        raise InputError(f"the checkpoint is no DETR: its {name} has the shape {tuple(state[name].shape)}")
    return tuple(state[name].shape)
