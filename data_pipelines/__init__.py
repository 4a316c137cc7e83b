"""Data sets, transforms and the loader of mimo_jax's experiments.

Each data set has a folder, laid out as `tfds new` does. Data flow from
`sources` through `views` to the `loader`; the README lists the other modules.

Importing the package imports none of its modules. The modules need the extra
`mimo-jax[data]`, but not JAX.
"""
