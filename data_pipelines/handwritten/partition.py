"""The fixed, stratified division of the rows into splits."""

import numpy as np
import numpy.typing as npt

ROWS_PER_CLASS = {'train': 100, 'validation': 20, 'test': 80}

_SEED = 1998  # the year in which the data set was published


def partition(
  label: npt.NDArray[np.integer],
) -> dict[str, npt.NDArray[np.int32]]:
  """Divides the rows into training, validation and test rows.

  The rows of each class are shuffled and cut into 100, 20 and 80. Then the rows
  of each split are shuffled, so that classes are mixed. The seed is fixed, so
  the same labels always give the same rows in the same order.

  Args:
    label: Class of each row, `[2000]`, 200 rows of each class, in any order.

  Returns:
    The row numbers of `train` `[1000]`, `validation` `[200]` and `test`
    `[800]`. They are disjoint and cover all rows.

  Examples:
    >>> import numpy as np
    >>> rows = partition(np.repeat(np.arange(10), 200))
    >>> {name: len(numbers) for name, numbers in rows.items()}
    {'train': 1000, 'validation': 200, 'test': 800}
  """
  # NumPy promises never to change what RandomState draws. What a Generator
  # draws, and so the splits, may change between versions.
  random = np.random.RandomState(_SEED)
  # [classes, 200], shuffled row numbers of each class.
  shuffled = np.stack(
    [random.permutation(np.flatnonzero(label == c)) for c in np.unique(label)]
  )
  bounds = np.cumsum(list(ROWS_PER_CLASS.values()))[:-1]
  return {
    name: random.permutation(part.ravel()).astype(np.int32)
    for name, part in zip(
      ROWS_PER_CLASS, np.split(shuffled, bounds, axis=1), strict=True
    )
  }
