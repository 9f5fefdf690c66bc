"""The attention that a validation pass keeps: the right maps of the right queries, in a small file."""

import json

import pytest
import torch
from safetensors import safe_open

from detr.checkpoint import checkpoints, load_checkpoint
from detr.data.batch import collate
from detr.data.transforms import normalize
from detr.diagnostics.attention_maps import MAX_IMAGES, MAX_QUERIES, AttentionMaps, map_extent
from detr.setup import prepare
from detr.train import train


def mask_of(height: int, width: int, padded: tuple[int, int]) -> torch.Tensor:
    mask = torch.ones(padded, dtype=torch.bool)
    mask[:height, :width] = False
    return mask


@pytest.mark.parametrize(
    ("image", "padded", "size", "extent"),
    [
        ((64, 64), (64, 64), (8, 8), (1, 1)),
        ((800, 1333), (800, 1333), (25, 42), (1, 42 * 32 / 1333)),  # the last column hangs over the image
        ((32, 48), (64, 64), (8, 8), (2, 64 / 48)),  # half of the map is padding
        ((33, 64), (33, 64), (3, 4), (48 / 33, 1)),
        ((20, 300), (20, 300), (1, 10), (32 / 20, 320 / 300)),  # one row of cells does not tell the stride
    ],
)
def test_extent_of_a_map_in_units_of_the_image(image, padded, size, extent):
    assert map_extent(size, mask_of(*image, padded)).tolist() == pytest.approx(extent)


def test_best_queries_of_the_first_images_are_kept(tmp_path):
    maps = AttentionMaps(layer=5)
    weights = torch.rand(2, MAX_QUERIES + 8, 3, 4)
    scores = torch.rand(MAX_QUERIES + 8)
    for i in range(MAX_IMAGES + 1):
        maps.add(100 + i, weights, scores, mask_of(96, 128, (96, 128)))
    maps.save(tmp_path / "maps", step=7)
    with safe_open(tmp_path / "maps", framework="pt") as file:
        about = file.metadata()
        query, kept = file.get_tensor("0.query"), file.get_tensor("0.weights")
    assert json.loads(about["images"]) == list(range(100, 100 + MAX_IMAGES))
    assert (about["layer"], about["step"]) == ("5", "7")
    assert query.tolist() == scores.argsort(descending=True)[:MAX_QUERIES].tolist()
    torch.testing.assert_close(kept.float(), weights.mean(0)[query.long()], atol=1e-3, rtol=1e-3)
    assert not list(tmp_path.glob("*.unfinished"))


def test_no_images_leave_no_file(tmp_path):
    AttentionMaps(layer=0).save(tmp_path / "maps", step=1)
    assert not list(tmp_path.iterdir())


def test_maps_of_a_run_are_the_weights_of_its_last_model(tiny_run, tmp_path):
    """Of the last layer, for the query that predictions.json names, whatever images shared its batch."""
    config = tiny_run(train={"probe_images": 2}, evaluation={"batch_size": 3})
    assert list(train(config, tmp_path))[-1].step == 4
    setup = prepare(config)
    load_checkpoint(checkpoints(tmp_path / "checkpoints")[-1], setup.model)
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    attention = setup.model.eval().transformer.decoder.layers[-1].multihead_attn
    inputs = []
    attention.register_forward_pre_hook(lambda _module, args: inputs.append(args))
    samples = {sample[1]["image_id"]: sample for sample in (setup.val_set[0, i] for i in range(3))}
    with safe_open(tmp_path / "attention.safetensors", framework="pt") as file:
        images = json.loads(file.metadata()["images"])
        assert len(images) == 2
        for number, image_id in enumerate(images):
            batch = collate([samples[image_id]])
            with torch.no_grad():
                setup.model(normalize(batch.images, batch.padding_mask), batch.padding_mask)
                queries, memory = inputs[-1]
                (size,) = memory.level_shapes
                expected = attention.weights(queries, memory)[0].mean(0)  # (Q, T)
            kept = file.get_tensor(f"{number}.query")
            weights = file.get_tensor(f"{number}.weights").float()
            assert weights.shape[1:] == size
            torch.testing.assert_close(weights.flatten(1), expected[kept.long()], atol=1e-3, rtol=1e-2)
            mine = [d for d in predictions if d["image_id"] == image_id]
            best = [d["query"] for d in sorted(mine, key=lambda d: -d["score"])]
            assert kept.tolist() == best
