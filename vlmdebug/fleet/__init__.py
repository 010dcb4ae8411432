"""Many rows and many ranks: what one process cannot see."""
