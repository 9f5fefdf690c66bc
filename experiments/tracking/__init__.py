"""The way of a run directory into MLflow."""
