"""Signals that explain why a run went as it did."""
