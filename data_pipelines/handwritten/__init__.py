"""UCI Multiple Features: handwritten digits seen through six feature sets."""
