"""Detections matched to the ground truth, and what follows from the matches."""
