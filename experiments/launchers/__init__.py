"""Places where worker processes run, one module a choice of `launcher=`."""
