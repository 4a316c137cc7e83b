"""Transforms of one element: standardisation and noise."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines import missing
from data_pipelines import sources

with _extra.data_extra():
  import grain

Float64s = npt.NDArray[np.float64]


class Statistics(NamedTuple):
  """Statistics of each feature over the elements of a source.

  Attributes:
    mean: Name -> mean, in the shape of one element's value, float64.
    std: Name -> standard deviation, likewise; 1 where a feature is constant, so
      that standardising makes it 0 and never NaN.
  """

  mean: dict[str, Float64s]
  std: dict[str, Float64s]


def statistics(
  source: sources.Source,
  names: Sequence[str],
  transforms: Sequence[grain.transforms.Map] = (),
) -> Statistics:
  """Computes each feature's mean and standard deviation.

  One pass in float64, by Welford's updates, which do not cancel when the mean
  is large and are exact for a constant feature. The standard deviation divides
  by the number of elements, as `numpy.std` does.

  Args:
    source: The elements to count, all of them. Give the training rows only, or
      the test rows leak into training.
    names: The modalities to measure, each in the rows that have it: all rows,
      or those whose entry `<name>_present` is true.
    transforms: Transforms to apply to an element before it is measured.

  Raises:
    ValueError: if the source is empty or lacks one of the names, or a value is
      not finite.

  Examples:
    >>> import numpy as np
    >>> rows = [{'x': np.array([1.0, 5.0])}, {'x': np.array([3.0, 5.0])}]
    >>> statistics(rows, ['x'])
    Statistics(mean={'x': array([2., 5.])}, std={'x': array([1., 1.])})
  """
  if len(source) == 0:
    raise ValueError('Expected a source with elements, got an empty one.')
  first = sources.transformed(source[0], transforms)
  mean = {
    name: np.zeros(np.shape(sources.entry(first, name))) for name in names
  }
  # Sum of squared deviations from the running mean.
  square = {name: np.zeros_like(mean[name]) for name in names}
  counts = dict.fromkeys(names, 0)
  for index in range(len(source)):
    element = sources.transformed(source[index], transforms)
    for name in names:
      if not element.get(missing.entry(name), True):
        continue
      value = np.asarray(sources.entry(element, name), np.float64)
      if not np.all(np.isfinite(value)):
        raise ValueError(
          f'Training row {index} has a value of {name!r} that is not finite,'
          ' so the statistics would not be finite. Correct the row or leave it'
          ' out where the data set is prepared.'
        )
      deviation = value - mean[name]
      counts[name] += 1
      mean[name] += deviation / counts[name]
      square[name] += deviation * (value - mean[name])
  return Statistics(
    mean=mean,
    std={
      name: np.where(s > 0, np.sqrt(s / max(counts[name], 1)), 1.0)
      for name, s in square.items()
    },
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Standardize(grain.transforms.Map):
  """Shifts and scales modalities to mean 0 and standard deviation 1.

  Computed in float64 and returned in float32; other entries pass unchanged. It
  costs some 20 microseconds an element: give it to `in_memory` if the data fit
  in memory.

  Attributes:
    mean: Name -> mean, in the shape of that modality or one that broadcasts.
    std: Name -> standard deviation, above 0; the same names.

  Raises:
    ValueError: if the names differ or a standard deviation is not above 0.

  Examples:
    >>> import numpy as np
    >>> rows = [{'x': np.array([1, 5])}, {'x': np.array([3, 5])}]
    >>> Standardize(*statistics(rows, ['x'])).map(rows[0])
    {'x': array([-1.,  0.], dtype=float32)}
  """

  mean: Mapping[str, npt.ArrayLike]
  std: Mapping[str, npt.ArrayLike]

  def __post_init__(self) -> None:
    if self.mean.keys() != self.std.keys():
      raise ValueError(
        'Expected mean and std of the same names, got '
        f'{sorted(self.mean)} and {sorted(self.std)}.'
      )
    for name, std in self.std.items():
      if not np.all(np.asarray(std) > 0):
        raise ValueError(
          f'Expected standard deviations above 0, got {std!r} for {name!r}. '
          'Use 1 for a constant feature, as `statistics` does.'
        )

  def map(self, element: sources.Element) -> sources.Element:
    """Makes a new element, or a batch, with these modalities standardised.

    Raises:
      ValueError: if a modality is missing.
    """
    return element | {
      name: np.asarray(
        (sources.entry(element, name) - np.asarray(mean, np.float64))
        / self.std[name],
        np.float32,
      )
      for name, mean in self.mean.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianNoise(grain.transforms.RandomMap):
  """Adds independent noise N(0, scale²) to every feature of some modalities.

  Grain seeds the generator for each element and epoch, so the noise depends on
  the loader's seed alone: not on workers, shards or restarts. Scales are in the
  units of the values, so apply it after standardisation.

  Attributes:
    scale: Name -> standard deviation of the noise, finite and at least 0.

  Raises:
    ValueError: if a scale is negative or not finite.

  Examples:
    >>> import numpy as np
    >>> noise = GaussianNoise({'x': 0.1})
    >>> noise.random_map({'x': np.zeros(2)}, np.random.default_rng(0))
    {'x': array([ 0.112, -0.139], dtype=float32)}
  """

  scale: Mapping[str, float]

  def __post_init__(self) -> None:
    for name, scale in self.scale.items():
      if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(
          f'Expected a finite scale of at least 0, got {scale} for {name!r}.'
        )

  def random_map(
    self, element: sources.Element, rng: np.random.Generator
  ) -> sources.Element:
    """Makes a new element with noise added to these modalities, in float32.

    Raises:
      ValueError: if a modality is missing.
    """
    noisy = {}
    # Sorted, so that the draws do not depend on how the mapping was written.
    for name in sorted(self.scale):
      value = np.asarray(sources.entry(element, name), np.float32)
      noise = rng.standard_normal(value.shape, np.float32)
      noisy[name] = value + np.float32(self.scale[name]) * noise
    return element | noisy
