"""Which rows and columns of the batch a tensor holds."""
