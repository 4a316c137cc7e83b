"""Views of single entries: scaled, pooled, standardised numbers, texts."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines import _words
from data_pipelines import sources

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Scaled:
  """An entry divided by a number, such as AV-MNIST's pixels by 255.

  Attributes:
    source: Name of the stored entry.
    divisor: The number, finite and above 0.

  Raises:
    ValueError: if the divisor is outside its range.

  Examples:
    >>> import numpy as np
    >>> Scaled('image', 255)({'image': np.array([0, 51])}, None)
    array([0. , 0.2], dtype=float32)
  """

  source: str
  divisor: float

  def __post_init__(self) -> None:
    if not (math.isfinite(self.divisor) and self.divisor > 0):
      raise ValueError(
        f'Expected a finite divisor above 0, got {self.divisor}.'
      )

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> Floats:
    """Scales the entry, of any shape; see `View`."""
    del random
    stored = np.asarray(sources.entry(element, self.source), np.float32)
    return stored / np.float32(self.divisor)


@dataclasses.dataclass(frozen=True)
class Pooled(Scaled):
  """Means over square blocks of a picture, divided by a number.

  The result is flat, as a multi-layer perceptron takes a spectrogram, or a
  smaller picture, for convolutions.

  Attributes:
    source: Name of the stored picture.
    divisor: The number, finite and above 0.
    block: Height and width of a block; the picture's height and width must be
      multiples of it. 1 keeps the picture as it is.
    as_row: Whether the result is flat.

  Raises:
    ValueError: if the divisor or the block is outside its range.

  Examples:
    >>> import numpy as np
    >>> picture = np.arange(8.0).reshape(2, 4, 1)
    >>> Pooled('picture', divisor=10, block=2)({'picture': picture}, None)
    array([0.25, 0.45], dtype=float32)
    >>> small = Pooled('picture', divisor=10, block=2, as_row=False)
    >>> small({'picture': picture}, None).shape
    (1, 2, 1)
  """

  block: int = 1
  as_row: bool = True

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.block < 1:
      raise ValueError(f'Expected a block of at least 1, got {self.block}.')

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> Floats:
    """Makes the means of [height, width, channels]; see `View`.

    Returns:
      [height / block * width / block * channels], or [height / block,
      width / block, channels].

    Raises:
      ValueError: if the entry is missing, not a picture, or its sides are not
        multiples of the block.
    """
    del random
    stored = np.asarray(sources.entry(element, self.source), np.float32)
    if stored.ndim != 3 or any(n % self.block for n in stored.shape[:2]):
      raise ValueError(
        f'Expected {self.source!r} to be [height, width, channels] with height'
        f' and width multiples of {self.block}, got the shape'
        f' {list(stored.shape)}.'
      )
    height, width, channels = stored.shape
    rows, columns = height // self.block, width // self.block
    blocks = stored.reshape(rows, self.block, columns, self.block, channels)
    means = blocks.mean((1, 3)) / np.float32(self.divisor)
    return means.ravel() if self.as_row else means


@dataclasses.dataclass(frozen=True)
class Numbers:
  """Some stored numbers as one row: (number - mean) / std for each.

  Attributes:
    columns: Names of the stored numbers.
    mean: The mean of each.
    std: The standard deviation of each, above 0.

  Raises:
    ValueError: if the three differ in length, or a deviation is not above 0.

  Examples:
    >>> view = Numbers(('age', 'weight'), mean=(40, 70), std=(10, 20))
    >>> view({'age': 55.0, 'weight': 60.0}, None)
    array([ 1.5, -0.5], dtype=float32)
  """

  columns: Sequence[str]
  mean: Sequence[float]
  std: Sequence[float]

  def __post_init__(self) -> None:
    if not len(self.columns) == len(self.mean) == len(self.std):
      raise ValueError(
        f'Expected a mean and a std for each of {tuple(self.columns)}, got'
        f' {tuple(self.mean)} and {tuple(self.std)}.'
      )
    if min(self.std, default=1) <= 0:
      raise ValueError(f'Expected std above 0, got {tuple(self.std)}.')

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> Floats:
    """Makes a row [columns] from an element; see `View`."""
    del random
    values = np.array([sources.entry(element, name) for name in self.columns])
    made = (values.astype(np.float64) - np.asarray(self.mean)) / self.std
    return made.astype(np.float32)


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
  ) -> Floats:
    """Makes [num_features] of a text, str or bytes in UTF-8; see `View`."""
    del random
    text = np.asarray(sources.entry(element, self.source)).item()
    text = text.decode() if isinstance(text, bytes) else str(text)
    return _words.bag(_words.words(text), self.num_features).astype(np.float32)
