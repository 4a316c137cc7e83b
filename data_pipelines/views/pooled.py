"""A view that shrinks a picture: means over blocks."""

import dataclasses

import numpy as np
import numpy.typing as npt

from data_pipelines import sources
from data_pipelines.views import _element
from data_pipelines.views import sequences


@dataclasses.dataclass(frozen=True)
class Pooled(sequences.Scaled):
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
  ) -> npt.NDArray[np.float32]:
    """Makes the means of [height, width, channels]; see `View`.

    Returns:
      [height / block * width / block * channels], or [height / block,
      width / block, channels].

    Raises:
      ValueError: if the entry is missing, not a picture, or its sides are not
        multiples of the block.
    """
    del random
    stored = np.asarray(_element.value(element, self.source), np.float32)
    if stored.ndim != 3 or any(n % self.block for n in stored.shape[:2]):
      raise ValueError(
        f'Expected {self.source!r} to be [height, width, channels] with height'
        f' and width multiples of {self.block}, got the shape'
        f' {list(stored.shape)}.'
      )
    height, width, channels = stored.shape
    blocks = stored.reshape(
      height // self.block,
      self.block,
      width // self.block,
      self.block,
      channels,
    )
    means = blocks.mean((1, 3)) / np.float32(self.divisor)
    return means.ravel() if self.as_row else means
