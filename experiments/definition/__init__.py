"""From the command line and the files in conf/ to the arms of an ablation."""
