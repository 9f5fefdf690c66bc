"""PostgreSQL and an MLflow server on this machine, to try what a team shares."""
