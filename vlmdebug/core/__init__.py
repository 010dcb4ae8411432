"""Counts: what the rows of each tensor count, and which rows and tokens each sample owns."""
