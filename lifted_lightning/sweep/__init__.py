"""`lifted sweep`: a W&B sweep configuration run on Ray, with the run folders as its only state."""
