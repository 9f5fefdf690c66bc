"""Names, tables and addresses that writers and readers agree on. Pure Python: no torch, hydra or mlflow."""
