"""Tabler Icons: small pictures and the tags that describe them."""
