"""HTAD: home tasks by a wrist accelerometer and a microphone."""
