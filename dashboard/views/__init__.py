"""One file a page, each with a `render()`; app.py names them."""
