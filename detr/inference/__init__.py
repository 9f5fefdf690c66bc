"""A trained detector at work: load a checkpoint, predict, evaluate, draw."""
