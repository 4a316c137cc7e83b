"""One engine: configurations, variants, the step, devices, runs, data."""
