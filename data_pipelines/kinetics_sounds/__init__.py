"""Kinetics-Sounds: 31 actions that are seen and heard."""
