"""The execution of an ablation's runs."""
