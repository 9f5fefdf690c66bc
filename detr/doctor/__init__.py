"""The audit of a data set and a set-up, as the command detr-doctor."""
