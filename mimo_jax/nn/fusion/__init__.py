"""Fusions of the features of all modalities to logits."""
