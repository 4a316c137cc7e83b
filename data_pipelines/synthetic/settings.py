"""The modalities of each config: information, slowness and noise."""

import dataclasses
import math

NUM_CLASSES = 10

SPLITS = {'train': 2000, 'validation': 1000, 'test': 4000}
"""Rows of each split."""


@dataclasses.dataclass(frozen=True)
class Modality:
  """One modality of the testbed.

  Attributes:
    information: How much it tells about the class, at least 0: the
      Kullback-Leibler divergence between the densities of any two classes, in
      nats. It is also the squared length of a class mean, in standard
      deviations of the noise, and adds up over modalities.
    slowness: Factor, at least 1, by which the signal is smaller than the
      nuisance it is mixed with. It changes how fast gradient descent finds the
      signal, not what the signal tells.
    features: Number of features, a power of two above `NUM_CLASSES`. All but
      `NUM_CLASSES` of their dimensions are nuisance, which tells nothing and to
      which a model can overfit.
    is_part: Whether it shows a part of the class instead of the class. The
      class is the sum of all parts modulo `NUM_CLASSES`, so nothing is known
      about it if one part is missing. In a config, either all modalities are
      parts or none.

  Raises:
    ValueError: if a value is outside its range.

  Examples:
    >>> Modality(information=4.0).separation
    2.0
  """

  information: float
  slowness: float = 1.0
  features: int = 32
  is_part: bool = False

  def __post_init__(self) -> None:
    if not (
      0 <= self.information < math.inf
      and 1 <= self.slowness < math.inf
      and self.features > NUM_CLASSES
      and self.features.bit_count() == 1
    ):
      raise ValueError(
        'Expected finite information of at least 0 nats, finite slowness of at'
        f' least 1, and a power of two above {NUM_CLASSES} as number of'
        f' features, got {self}.'
      )

  @property
  def separation(self) -> float:
    """Length of a class mean, in standard deviations of the noise."""
    return math.sqrt(self.information)


CONFIGS = {
  'balanced': {'first': Modality(4.5), 'second': Modality(4.5)},
  'imbalance_2': {'strong': Modality(6.0), 'weak': Modality(3.0)},
  'imbalance_4': {'strong': Modality(7.2), 'weak': Modality(1.8)},
  'imbalance_8': {'strong': Modality(8.0), 'weak': Modality(1.0)},
  'useless': {'strong': Modality(9.0), 'noise': Modality(0.0)},
  'slowness_2': {'fast': Modality(4.5), 'slow': Modality(4.5, slowness=2.0)},
  'slowness_4': {'fast': Modality(4.5), 'slow': Modality(4.5, slowness=4.0)},
  'slowness_8': {'fast': Modality(4.5), 'slow': Modality(4.5, slowness=8.0)},
  'nuisance_16': {
    'clean': Modality(4.5, features=16),
    'noisy': Modality(4.5, features=256),
  },
  'three': {
    'strong': Modality(4.5),
    'slow': Modality(3.0, slowness=4.0),
    'weak': Modality(1.5),
  },
  'interaction': {
    'first': Modality(14.0, is_part=True),
    'second': Modality(14.0, is_part=True),
  },
}
"""Config -> its modalities; the first config is the default.

All but the last have 9 nats in total, hence the same fused Bayes accuracy. They
differ in which modality holds the information, and in how hard it is to learn.
The number in a name is the ratio of the two modalities' information, slowness
or number of features. In `interaction` no modality alone tells anything about
the class.
"""
