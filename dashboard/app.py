"""The dashboard: streamlit run dashboard/app.py

Reads the store of mlflow.yaml, or of the file that DETR_STORE names.
"""

import os
import sys
from pathlib import Path

import streamlit as st

HERE = Path(__file__).resolve().parent
# Streamlit puts dashboard/ first on the path, where the packages are not found.
sys.path = [str(HERE.parent), *(entry for entry in sys.path if entry not in (str(HERE), str(HERE.parent)))]

# A person waits: the tracking server is asked twice and for seconds, not seven times and for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from dashboard import choices, states  # noqa: E402
from dashboard.views import ablation, compare, curves, detections, sweeps, thresholds, why  # noqa: E402

st.set_page_config(page_icon=str(HERE / "icon.svg"), layout="wide")  # a page's own icon would be loaded from outside
page = st.navigation(
    [
        st.Page(ablation.render, title="Ablation", icon=":material/balance:", url_path="ablation", default=True),
        st.Page(curves.render, title="Curves", icon=":material/show_chart:", url_path="curves"),
        st.Page(detections.render, title="Detections", icon=":material/image_search:", url_path="detections"),
        st.Page(thresholds.render, title="Thresholds and errors", icon=":material/tune:", url_path="thresholds"),
        st.Page(why.render, title="Why", icon=":material/psychology_alt:", url_path="why"),
        st.Page(sweeps.render, title="Sweeps", icon=":material/scatter_plot:", url_path="sweeps"),
        st.Page(compare.render, title="Compare runs", icon=":material/compare_arrows:", url_path="compare"),
    ]
)
st.html(HERE / "style.css")
with states.told():
    choices.pick_ablation()
    page.run()
