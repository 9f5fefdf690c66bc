"""What the tests of the read side share."""

import pytest
from stored import Builder


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """A builder of ablations in a store of the tests' own, made once: a new database takes five seconds."""
    return Builder(tmp_path_factory.mktemp("stored"))
