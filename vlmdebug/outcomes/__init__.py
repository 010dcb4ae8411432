"""What the forward pass of a model would make of a call: it raises, runs, or nobody knows."""
