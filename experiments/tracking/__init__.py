"""Upload of run directories to MLflow."""
