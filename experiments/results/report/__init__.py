"""Reports of ablations and sweeps as Markdown, LaTeX, CSV and HTML."""
