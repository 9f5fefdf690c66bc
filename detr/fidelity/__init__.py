"""Golden figures of the official code, and the command detr-fidelity that compares with them."""
