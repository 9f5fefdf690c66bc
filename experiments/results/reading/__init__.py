"""The store and the run directories, read into frames."""
