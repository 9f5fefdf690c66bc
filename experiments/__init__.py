"""Experiment definitions, their execution, and the reading of their results."""
