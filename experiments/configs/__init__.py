"""Configurations, one file a data set."""
