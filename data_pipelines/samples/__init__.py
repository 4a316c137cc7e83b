"""Tiny copies of the data sets that users download."""
