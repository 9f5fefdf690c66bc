"""Seeds that follow from what is computed, not from what was computed before it."""

import numpy as np


def derived_seed(*parts: int) -> int:
    """A seed for torch in [0, 2**63); different parts, all 0 or more, give unrelated random numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
