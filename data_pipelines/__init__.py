"""Data sets, transforms and the one loader of mimo_jax's experiments.

One folder a data set, laid out as `tfds new` does; then, in the order in which
data flow:

  * `sources`: a prepared split as a random-access source; small ones in memory.
  * `views`: what a model sees of a stored element: spectrograms (`audio`),
    pictures (`frames`), feature sequences and labels (`sequences`).
    `views.transforms`: standardisation by training statistics, and noise.
  * `loader`: endless training batches and exhaustive evaluation batches.

`reading` is what builders share. `sample_tree` writes tiny copies of the data
sets that users download.

Importing the package imports none of its parts; these need the extra
`mimo-jax[data]`. No part needs JAX.
"""
