"""The steps that rebuild AV-MNIST: pictures and spectrograms.

Vielzeuf, Lechervy, Pateux and Jurie, "CentralNet: a multilayer approach for
multimodal fusion", ECCV Workshops, 2018, describes the data set, but not every
number. Each step says where it is our own choice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.av_mnist import tree

with _extra.data_extra():
  import PIL.Image
  import scipy.signal

RATE = 8_000
"""Samples a second of the recordings."""
KEPT_ENERGY = 0.25
"""Share of the pictures' energy that is kept: 75 % is removed."""
NOISE_DECIBELS = 0.0
"""Signal-to-noise ratio: noise as strong as the voice."""
WINDOW = 256
"""Samples of a spectrum: 32 ms."""

_HOP = 64
# The loudest cell is 255; what is softer by this or more is 0.
_RANGE_DECIBELS = 60.0
_ROWS = 10_000  # of a block

_Item = TypeVar('_Item')


class Projection(NamedTuple):
  """The leading principal components of pictures, and the range they span."""

  mean: npt.NDArray[np.float64]  # [pixels]
  components: npt.NDArray[np.float64]  # [pixels, components], orthonormal
  lowest: float
  highest: float

  def __call__(self, pictures: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Removes energy from pictures [rows, pixels] and rescales them.

    The fitted pictures span 0 to 255; others are clipped to this range.
    """
    scaled = np.empty(pictures.shape, np.float32)
    for rows in _blocks(pictures):
      rest = _project(self.mean, self.components, pictures[rows])
      scaled[rows] = (
        (rest - self.lowest) * (255 / (self.highest - self.lowest))
      ).clip(0, 255)
    return scaled


def fit(pictures: npt.NDArray[Any]) -> Projection:
  """Finds the components that hold the energy to keep.

  Energy is the variance around the mean picture. The fewest leading principal
  components whose share of it is at least `KEPT_ENERGY` are kept: a picture x
  becomes m + V Vᵀ (x - m), with the mean m and the components as columns of V.

  Args:
    pictures: [rows, pixels], of the training split only.

  Raises:
    ValueError: if all pictures are equal.

  Examples:
    >>> import numpy as np
    >>> wide = np.array([[-3, 0], [3, 0], [0, -1], [0, 1]])
    >>> projection = fit(wide)
    >>> np.abs(projection.components[:, 0])
    array([1., 0.])
    >>> projection(wide)[:, 0]
    array([  0. , 255. , 127.5, 127.5], dtype=float32)
  """
  mean = pictures.mean(axis=0, dtype=np.float64)
  scatter = np.zeros((pictures.shape[1], pictures.shape[1]))
  for rows in _blocks(pictures):
    block = pictures[rows] - mean
    scatter += block.T @ block
  energies, components = np.linalg.eigh(scatter)
  shares = np.cumsum(energies[::-1])
  if shares[-1] <= 0:
    raise ValueError(
      'All pictures of the training split are equal; expected digits.'
    )
  count = int(np.searchsorted(shares, KEPT_ENERGY * shares[-1])) + 1
  components = components[:, ::-1][:, :count]
  # Of all rows, because the extremes are those of the projected pictures.
  low, high = np.inf, -np.inf
  for rows in _blocks(pictures):
    rest = _project(mean, components, pictures[rows])
    low, high = min(low, rest.min()), max(high, rest.max())
  return Projection(mean, components, float(low), float(high))


def _blocks(pictures: npt.NDArray[Any]) -> list[slice]:
  """All pictures in float64 would take much memory."""
  starts = range(0, len(pictures), _ROWS)
  return [slice(start, start + _ROWS) for start in starts]


def _project(
  mean: npt.NDArray[np.float64],
  components: npt.NDArray[np.float64],
  pictures: npt.NDArray[Any],
) -> npt.NDArray[np.float64]:
  return mean + (pictures - mean) @ components @ components.T


def pair(
  labels: Sequence[int],
  recordings: Mapping[int, Sequence[_Item]],
  seed: int,
) -> list[_Item]:
  """Draws a recording of the same digit for each picture.

  Args:
    labels: The digit of each picture.
    recordings: Digit -> its recordings, in a fixed order. Each is equally
      likely.
    seed: Equal seeds draw the same, with any version of NumPy.

  Examples:
    >>> pair([1, 0, 1, 1], {0: ['zero'], 1: ['one', 'eins']}, seed=0)
    ['one', 'zero', 'eins', 'eins']
  """
  random = np.random.RandomState(seed)
  drawn = []
  for label in labels:
    choices = recordings[int(label)]
    drawn.append(choices[random.randint(len(choices))])
  return drawn


def add_noise(
  values: npt.NDArray[np.floating[Any]], random: np.random.RandomState
) -> npt.NDArray[np.float64]:
  """Adds white Gaussian noise, `NOISE_DECIBELS` below the recording.

  The ratio of the mean squares over the whole recording is exact, since the
  drawn noise is scaled to it. (The original data set has noise from ESC-50, at
  a level that is not published.)

  Examples:
    >>> import numpy as np
    >>> tone = np.sin(np.arange(800.0))
    >>> noise = add_noise(tone, np.random.RandomState(0)) - tone
    >>> float(np.sum(tone**2) / np.sum(noise**2))
    1.000
  """
  noise = random.normal(size=len(values))
  wanted = np.mean(np.square(values)) / 10 ** (NOISE_DECIBELS / 10)
  return values + noise * np.sqrt(wanted / np.mean(np.square(noise)))


def spectrogram(
  values: npt.NDArray[np.floating[Any]],
) -> npt.NDArray[np.float32]:
  """Makes the picture of a recording: decibels over frequency and time.

  It takes the power of Hann windows of 256 samples, one every 64, without
  padding. Decibels relative to the loudest cell are scaled from [-60, 0] to
  [0, 255]; lower ones become 0. The picture is resized linearly to the shape of
  the data set, so that long and short recordings fill the width.

  Args:
    values: [n], n >= `WINDOW`.

  Returns:
    [112, 112]: row 0 is 0 Hz, the last row is half of `RATE`; column 0 is the
    start.

  Examples:
    >>> import numpy as np
    >>> tone = np.sin(np.arange(8000) * 2 * np.pi * 1000 / RATE)
    >>> picture = spectrogram(tone)
    >>> picture.shape, int(picture[:, 50].argmax())  # 1,000 of 4,000 Hz
    ((112, 112), 28)
  """
  _, _, magnitude = scipy.signal.spectrogram(
    values,
    RATE,
    window='hann',
    nperseg=WINDOW,
    noverlap=WINDOW - _HOP,
    detrend=False,
    mode='magnitude',
  )
  power = np.square(magnitude)
  loudest = power.max()
  # A silent recording has no decibels; all of it becomes 0.
  relative = power / loudest if loudest > 0 else power
  decibels = 10 * np.log10(relative.clip(10 ** (-_RANGE_DECIBELS / 10)))
  levels = (255 * (1 + decibels / _RANGE_DECIBELS)).astype(np.float32)
  height, width, _ = tree.AUDIO_SHAPE
  resized = PIL.Image.fromarray(levels).resize(
    (width, height), PIL.Image.Resampling.BILINEAR
  )
  # Rounding in the resizing may exceed the range slightly.
  return np.asarray(resized).clip(0, 255)
