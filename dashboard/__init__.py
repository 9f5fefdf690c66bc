"""The Streamlit dashboard, which reads what experiments wrote."""
