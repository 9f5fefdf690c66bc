"""The search of settings with Optuna."""
