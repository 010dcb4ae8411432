"""Figures behind every claim about speed: ratios within one run, for machines are noisy."""
