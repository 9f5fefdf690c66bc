"""The page that compares any runs."""

import pytest


@pytest.fixture(scope="module")
def parents(stored):
    return stored.ablation(1, name="first"), stored.ablation(2, name="second")


def test_the_newest_group_is_compared_by_what_differs(page, parents):
    test = page("compare")
    table = test.dataframe[0].value
    assert table["of"].unique().tolist() == [f"second {parents[1][:8]}"] and len(table) == 8
    assert "model.hidden_dim" not in table and "Of their settings" in test.caption[0].value


def test_a_link_holds_the_query(page, parents):
    address = {"of": [f"{name} {parent[:8]}" for name, parent in zip(("first", "second"), parents, strict=True)]}
    assert len(page("compare", address=address).dataframe[0].value) == 12
    found = page("compare", address=address | {"words": "hidden_dim=32 finished", "metrics": "train/loss"}).dataframe[0]
    assert list(found.value.columns[:4]) == ["run", "of", "state", "train/loss"] and len(found.value) == 12
    assert "No run fits" in page("compare", address=address | {"words": "nobody"}).info[0].value
