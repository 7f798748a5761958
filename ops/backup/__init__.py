"""Proven copies of the data: collect, publish, store, verify, retain. Restores nothing."""
