"""Configurations, one file per data set."""
