"""Several comparisons, planned, run and reported as one study."""
