"""What people look at: pages over what experiments.results reads. Nothing here writes, and nothing imports torch."""
