"""Digits in several views, for most of the examples."""

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.handwritten import archive


def load(*views: str) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Views of handwritten digits, to train on and to test on.

  Args:
    views: of the data set's six: `fou`, Fourier coefficients of the outline,
      which cannot tell a 6 from a 9; `pix`, the picture of 16 x 15 pixels, row
      by row; or others.

  Returns:
    1,000 rows to train on, and 800 to test on: each view [rows, features],
    standardised by the rows to train on, and `label` [rows].

  Examples:
    >>> train, test = load('fou', 'pix')
    >>> train['fou'].shape, test['pix'].shape, test['label'].shape
    ((1000, 76), (800, 240), (800,))
  """
  arrays = archive.read_archive()
  rows = archive.partition(arrays['label'])
  standard = {'label': arrays['label'].astype(np.int32)}
  for name in views:
    values = arrays[name].astype(np.float32)
    fitted = values[rows['train']]
    standard[name] = (values - fitted.mean(0)) / (fitted.std(0) + 1e-6)
  train, test = (
    {
      name: jnp.asarray(values[rows[split]])
      for name, values in standard.items()
    }
    for split in ('train', 'test')
  )
  return train, test
