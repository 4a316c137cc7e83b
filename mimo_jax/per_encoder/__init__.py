"""Transformations that treat each encoder, or the head, on its own."""
