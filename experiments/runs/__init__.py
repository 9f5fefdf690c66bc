"""Execution of the runs of an ablation."""
