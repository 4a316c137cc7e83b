"""Experiments: train one model, compare methods over seeds, benchmark."""
