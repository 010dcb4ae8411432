"""Measurements for every claim about speed: ratios within one run, because machines are noisy."""
