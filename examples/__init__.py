"""Own parts for a run: each file is one, and the command in its head uses it."""
