"""Shim: everything is in setup.cfg."""

import setuptools

setuptools.setup()
