"""Frames in, plotly figures out."""
