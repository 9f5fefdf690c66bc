"""Reports of stores with damaged files: what can be told is told, and what cannot is a sentence."""

import os
import random
import shutil
import warnings
from pathlib import Path

import pytest
from malformed import damage
from stored import Builder

from experiments.results.evidence import gather
from experiments.results.report.ablation_report import render
from experiments.schema.store import StoreError

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "150")) // 5
SEED = int(os.environ.get("CHAOS_SEED", "0"))


@pytest.fixture(scope="module")
def damageable(tmp_path_factory) -> tuple[Builder, str]:
    """A store with one ablation whose files may be harmed, and its parent run."""
    builder = Builder(tmp_path_factory.mktemp("damaged"))
    return builder, builder.ablation(1)


def test_a_report_of_damaged_files_is_one_or_a_sentence(damageable):
    builder, parent = damageable
    chance, artifacts, sound = random.Random(SEED), builder.folder / "artifacts", builder.folder / "sound"
    shutil.copytree(artifacts, sound)
    files = sorted(path.relative_to(sound) for path in sound.rglob("*.json"))
    weighed = [f for f in files if f.name.startswith(("ablation", "annotations"))] * 4 + files
    told = 0
    for number in range(ROUNDS):
        done = damage(artifacts / chance.choice(weighed), chance)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                pages = render(gather(builder.store, parent, replicates=10))
            assert "<script>alert" not in pages["report.html"]
            told += 1
        except StoreError as error:
            assert str(error)
        except Exception as error:
            raise AssertionError(f"CHAOS_SEED={SEED}, round {number}: {done}") from error
        finally:
            shutil.rmtree(artifacts)
            shutil.copytree(sound, artifacts)
    assert 0.2 * ROUNDS < told < ROUNDS


@pytest.mark.parametrize(
    ("name", "said"), [("predictions.json", "left out"), ("annotations_val.json", "cannot be used")], ids=["one", "all"]
)
def test_a_half_written_file_leaves_the_rest_of_the_report(damageable, name, said):
    builder, parent = damageable
    path = next(iter(sorted((builder.folder / "artifacts").rglob(name))))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        evidence = gather(builder.store, parent, replicates=10)
    finally:
        path.write_bytes(content)
    assert any(said in note and Path(name).name in note for note in evidence.notes), evidence.notes
    assert len(evidence.results.finished) == 4
    assert (len(evidence.images["val/AP"].observed) if evidence.images else 0) == (3 if name.startswith("pred") else 0)
