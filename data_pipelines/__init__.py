"""Data sets, transforms and the one loader of mimo_jax's experiments.

One folder a data set, laid out as `tfds new` does. Data flow from `sources`
through `views` to the `loader`; the folder's README says what else there is.

Importing the package imports none of its parts; these need the extra
`mimo-jax[data]`. No part needs JAX.
"""
