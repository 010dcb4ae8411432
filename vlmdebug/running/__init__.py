"""Code under test is run here: `falsify`, and the batches that it draws."""
