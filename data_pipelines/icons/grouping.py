"""Groups icons that are near-copies of each other, for the same split."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra

with _extra.data_extra():
  import scipy.sparse
  from scipy.sparse import csgraph

MODIFIERS = frozenset(
  (
    *('2', '3', 'ai', 'bitcoin', 'bolt', 'cancel', 'check', 'code', 'cog'),
    *('discount', 'dollar', 'down', 'edit', 'exclamation', 'flame', 'heart'),
    *('key', 'minus', 'off', 'pause', 'pin', 'plus', 'question', 'search'),
    *('share', 'spark', 'star', 'up', 'vertical', 'x'),
  )
)
"""Second words that only vary an icon: `home`, `home-off`, `home-plus`."""

SIMILARITY = 0.97
"""The cosine of two pictures above which they are near-copies."""

_BLOCK = 500  # rows of the matrix of cosines that are computed at a time


def family(name: str) -> str:
  """Returns a name's first two words, or only the first if a modifier follows.

  The first word alone would be too coarse: a whole category begins with
  `brand`.

  Examples:
    >>> names = 'arrow-left', 'arrow-left-circle', 'home', 'home-off', 'brand-x'
    >>> [family(name) for name in names]
    ['arrow-left', 'arrow-left', 'home', 'home', 'brand']
  """
  first, *others = name.split('-')
  if not others or others[0] in MODIFIERS:
    return first
  return f'{first}-{others[0]}'


def groups(
  names: Sequence[str], pictures: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int32]:
  """Groups icons of one family, and those whose pictures are nearly equal.

  Two icons are in one group if they have the same `family`, if the cosine of
  their pictures is above `SIMILARITY`, or if a chain of such icons joins them.

  Args:
    names: Names of the icons.
    pictures: [n, height, width], none of them blank.

  Returns:
    [n], the number of each icon's group, in order of first appearance.

  Examples:
    >>> import numpy as np
    >>> pictures = np.eye(9, dtype=np.uint8).reshape(9, 3, 3)
    >>> groups(['home', 'b', 'home-off', 'd'], pictures[[0, 1, 2, 1]])
    array([0, 1, 0, 1], dtype=int32)
  """
  first: dict[str, int] = {}
  pairs = [(i, first.setdefault(family(n), i)) for i, n in enumerate(names)]
  # Products of whole numbers are exact, also in float64.
  flat = pictures.reshape(len(pictures), -1).astype(np.float64)
  squares = np.sum(flat**2, 1)
  for start in range(0, len(flat), _BLOCK):
    block = slice(start, start + _BLOCK)
    # Cosines are symmetric: those with earlier icons are done.
    near = (flat[block] @ flat[start:].T) ** 2 > SIMILARITY**2 * np.outer(
      squares[block], squares[start:]
    )
    pairs += [(start + i, start + j) for i, j in np.argwhere(near).tolist()]
  rows, columns = np.transpose(pairs)
  graph = scipy.sparse.coo_array(
    (np.ones(len(pairs), bool), (rows, columns)), (len(flat), len(flat))
  )
  _, component = csgraph.connected_components(graph, directed=False)
  _, place, number = np.unique(
    component, return_index=True, return_inverse=True
  )
  return np.argsort(np.argsort(place))[number].astype(np.int32)
