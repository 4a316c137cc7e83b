"""Reads what users have on disk: media, lists, pickles, prepared records."""
