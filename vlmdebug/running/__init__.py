"""Runs code under test: `falsify`, and the batches that it draws."""
