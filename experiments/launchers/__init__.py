"""Launchers of worker processes, one module a choice of `launcher=`."""
