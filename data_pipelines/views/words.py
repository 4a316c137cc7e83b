"""A view of a text as a bag of words."""

import dataclasses

import numpy as np
import numpy.typing as npt

from data_pipelines import _words
from data_pipelines import sources
from data_pipelines.views import _element


@dataclasses.dataclass(frozen=True)
class HashedWords:
  """A stored text as a hashed bag of words: 1 for each word that occurs.

  Words are runs of letters and digits, in lower case. The index of a word is a
  checksum of it, so nothing is learned from any row.

  Attributes:
    source: Name of the stored text.
    num_features: Length of the bag. Words that share an index cannot be told
      apart.

  Raises:
    ValueError: if num_features is below 1.

  Examples:
    >>> view = HashedWords('caption', num_features=8)
    >>> view({'caption': 'A cat and a dog.'}, None)
    array([0., 1., 1., 0., 0., 0., 1., 0.], dtype=float32)
  """

  source: str
  num_features: int = 1024

  def __post_init__(self) -> None:
    if self.num_features < 1:
      raise ValueError(f'Expected num_features >= 1, got {self.num_features}.')

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> npt.NDArray[np.float32]:
    """Makes [num_features] of a text, str or bytes in UTF-8; see `View`."""
    del random
    text = np.asarray(_element.value(element, self.source)).item()
    text = text.decode() if isinstance(text, bytes) else str(text)
    return _words.bag(_words.words(text), self.num_features).astype(np.float32)
