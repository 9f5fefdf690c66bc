"""Tags are read as they are written, and strictly."""

import pytest

from experiments.schema import names
from experiments.schema.names import RunTags, SweepTags


@pytest.mark.parametrize("tags", [RunTags("a=b", 3, "f"), SweepTags("lr", "lr-1.1", "/runs/sweeps.journal")])
def test_tags_survive_a_run(tags):
    stored = {"mlflow.user": "somebody"} | tags.to_dict()
    assert type(tags).from_dict(stored) == tags
    for key in tags.to_dict().keys() - {names.FINGERPRINT}:
        with pytest.raises(ValueError, match=f"it lacks the tag {key}"):
            type(tags).from_dict({k: v for k, v in stored.items() if k != key})


@pytest.mark.parametrize("seed", ["", "-1", "1.0", "two", "\u00b2", "9" * 30])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="must be a whole number"):
        RunTags.from_dict({names.ARM: "a", names.SEED: seed})
