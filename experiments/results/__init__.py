"""The read side: what runs wrote becomes frames, intervals, verdicts and figures; no torch, detr or hydra here."""
