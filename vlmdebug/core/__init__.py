"""Numbers: what each tensor counts, and which rows and tokens each sample owns."""
