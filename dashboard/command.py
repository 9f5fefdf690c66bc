"""Open the dashboard on the store of mlflow.yaml.

detr-dashboard                        # http://127.0.0.1:8501
detr-dashboard --server.port 8502     # any option of `streamlit run`
"""

import os
import sys
from pathlib import Path

APP = Path(__file__).with_name("app.py")


def main() -> int:
    """Replace this process by streamlit's, with the arguments of the command line; returns only from --help."""
    options = sys.argv[1:]
    if {"-h", "--help"} & set(options):
        sys.stdout.write(f"{__doc__}\n")
        return 0
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", str(APP), *options])
