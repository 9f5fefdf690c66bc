"""Inference with a trained detector: load a checkpoint, predict, evaluate, draw."""
