"""Expected against actual: typed differences, and the one place that words them."""
