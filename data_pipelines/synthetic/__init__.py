"""A testbed: Gaussian modalities whose Bayes accuracy is known."""
