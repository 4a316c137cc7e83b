"""Draws rows, and computes what the best possible classifier achieves."""

import functools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines.synthetic import settings

with _extra.data_extra():
  import scipy.integrate
  import scipy.linalg
  import scipy.special
  import scipy.stats

# Points of `bayes_accuracy` where it is not a one-dimensional integral.
_NUM_POINTS = 2**15


def draw(
  config: Mapping[str, settings.Modality], size: int, seed: int
) -> dict[str, npt.NDArray[Any]]:
  r"""Draws rows, independent of each other.

  With y a class drawn uniformly, e_y its unit vector, d and s the separation
  and slowness of a modality, C classes and n features,

      x = H z,   z = [(d e_y + u) / s, v],   u ~ N(0, I_C),  v ~ N(0, I_{n-C}),

  where H is the Walsh-Hadamard matrix divided by \sqrt n. H is orthogonal, so x
  tells as much as z does. Its entries have equal size, so each feature gets an
  equal share of signal and nuisance, and no scaling of features separates them.

  If modalities are parts, y in e_y is the part instead of the class: it is
  drawn uniformly for all modalities but the last, and the last part is the one
  that makes the sum of all parts y modulo C.

  Equal seeds give equal labels and noise in all configs, modality by modality
  in the order of the config. So configs differ only in the effect that they are
  meant to study. A longer draw begins with the rows of a shorter one.

  Args:
    config: The modalities, as in `settings.CONFIGS`.
    size: Number of rows.
    seed: From 0 to 2**32 - 1; different seeds draw independent rows.

  Returns:
    Each modality `[size, features]` float32, and `label` `[size]` int64.

  Examples:
    >>> rows = draw(settings.CONFIGS['imbalance_8'], 5, seed=0)
    >>> rows['strong'].shape, rows['label']
    ((5, 32), array([9, 5, 5, 8, 1]))
  """

  # NumPy promises never to change what RandomState draws. Labels, signals and
  # nuisance have separate streams, so that none depends on another's size.
  def stream(*part: int) -> np.random.RandomState:
    return np.random.RandomState([seed, *part])

  num_classes = settings.NUM_CLASSES
  label = stream(0).randint(num_classes, size=size, dtype=np.int64)
  rows: dict[str, npt.NDArray[Any]] = {}
  shown = [label] * len(config)
  if _is_of_parts(config):
    shown = [
      stream(3, position).randint(num_classes, size=size, dtype=np.int64)
      for position in range(len(config) - 1)
    ]
    shown.append((label - sum(shown)) % num_classes)
  for position, (name, modality) in enumerate(config.items()):
    signal = stream(1, position).normal(size=[size, num_classes])
    signal[np.arange(size), shown[position]] += modality.separation
    nuisance = stream(2, position).normal(
      size=[size, modality.features - num_classes]
    )
    z = np.concatenate([signal / modality.slowness, nuisance], axis=1)
    rows[name] = (z @ _rotation(modality.features)).astype(np.float32)
  return {**rows, 'label': label}


def log_posterior(
  config: Mapping[str, settings.Modality],
  inputs: Mapping[str, npt.NDArray[np.floating]],
) -> npt.NDArray[np.float64]:
  """Computes the logarithm of the classes' true probabilities.

  In the notation of `draw`, the log-likelihood of class c is d (z_c s) up to a
  constant, and those of several modalities add up. So the Bayes classifier is
  linear in the inputs, and any encoder with a linear part can represent it. If
  modalities are parts, these are the log-likelihoods of the parts, and the
  probabilities of their sum are a convolution.

  Args:
    config: The modalities that the rows were drawn from.
    inputs: The modalities that are seen, at least one, `[..., features]` each.

  Returns:
    `[..., classes]`. The mean of minus the label's entry estimates the least
    cross-entropy that any model can reach.

  Raises:
    ValueError: if there is no input, or one that the config does not have.

  Examples:
    >>> config = settings.CONFIGS['imbalance_8']
    >>> rows = draw(config, 1000, seed=0)
    >>> seen = log_posterior(config, {'weak': rows['weak']})
    >>> float(np.mean(seen.argmax(-1) == rows['label']))
    0.329
  """
  _check_names(config, inputs)
  if not inputs:
    raise ValueError(f'Expected some of {list(config)}, got no modality.')
  scores = []
  for name, values in inputs.items():
    modality = config[name]
    z = values @ _rotation(modality.features)  # its own inverse
    signal = z[..., : settings.NUM_CLASSES] * modality.slowness
    scores.append(modality.separation * signal)
  if not _is_of_parts(config):
    return scipy.special.log_softmax(sum(scores), axis=-1)
  if len(scores) < len(config):
    return np.full(scores[0].shape, -np.log(settings.NUM_CLASSES))
  return _log_of_sum(scores)


def bayes_accuracy(
  config: Mapping[str, settings.Modality], modalities: Collection[str]
) -> float:
  """Computes the accuracy of the best classifier of the given modalities.

  Args:
    config: The modalities that rows are drawn from.
    modalities: The names of those that are seen; none gives chance accuracy.

  Returns:
    `accuracy_of_separation` at the square root of the sum of their information.
    If modalities are parts, it is 1 / C if one is missing. Otherwise it is the
    mean of the posterior's largest entry over 32,768 quasi-random rows (a
    scrambled Sobol sequence of fixed seed), accurate to about 0.0003.

  Raises:
    ValueError: if the config has no such modality.

  Examples:
    >>> config = settings.CONFIGS['imbalance_8']
    >>> [bayes_accuracy(config, [name]) for name in config]
    [0.8753, 0.3409]
    >>> bayes_accuracy(config, list(config))
    0.9025
  """
  _check_names(config, modalities)
  if _is_of_parts(config):
    if set(modalities) < set(config):
      return 1 / settings.NUM_CLASSES
    return _accuracy_of_parts(tuple(m.separation for m in config.values()))
  information = sum(config[name].information for name in set(modalities))
  return accuracy_of_separation(information**0.5, settings.NUM_CLASSES)


def accuracy_of_separation(separation: float, num_classes: int) -> float:
  r"""Computes Bayes accuracy of equiprobable, orthogonal Gaussians.

  The right class's score, of mean d, must exceed C - 1 others of mean 0, all of
  unit variance and independent:

      P = \int \phi(t) \Phi(t + d)^{C - 1} dt.

  Args:
    separation: D, the length of a class mean in standard deviations.
    num_classes: C.

  Examples:
    >>> accuracy_of_separation(0.0, 4), accuracy_of_separation(2**0.5, 2)
    (0.25, 0.841345)
  """

  def integrand(t: float) -> float:
    density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    return density * scipy.special.ndtr(t + separation) ** (num_classes - 1)

  probability, _ = scipy.integrate.quad(integrand, -np.inf, np.inf)
  return float(probability)


@functools.cache
def _accuracy_of_parts(separations: tuple[float, ...]) -> float:
  """The best accuracy of the sum of parts that are seen so clearly."""
  num_classes = settings.NUM_CLASSES
  sobol = scipy.stats.qmc.Sobol(len(separations) * num_classes, seed=0)
  uniform = sobol.random(_NUM_POINTS).clip(1e-12, 1 - 1e-12)
  signals = scipy.special.ndtri(uniform).reshape(_NUM_POINTS, -1, num_classes)
  scores = []
  for i, separation in enumerate(separations):
    signal = signals[:, i]
    signal[:, 0] += separation  # by symmetry, part 0 stands for all
    scores.append(separation * signal)
  return float(np.exp(_log_of_sum(scores).max(-1)).mean())


def _log_of_sum(
  scores: list[npt.NDArray[np.float64]],
) -> npt.NDArray[np.float64]:
  """Log-probabilities of the sum of parts modulo C, from each part's scores."""
  first, *others = (scipy.special.log_softmax(one, axis=-1) for one in scores)
  shifts = np.arange(settings.NUM_CLASSES)
  # [sum, part of `other`] -> the part of `first` that gives this sum.
  places = (shifts[:, None] - shifts) % settings.NUM_CLASSES
  for other in others:
    first = scipy.special.logsumexp(
      first[..., places] + other[..., None, :], axis=-1
    )
  return first


def _is_of_parts(config: Mapping[str, settings.Modality]) -> bool:
  """Whether modalities show parts of the class instead of the class."""
  return all(modality.is_part for modality in config.values())


def _rotation(features: int) -> npt.NDArray[np.float64]:
  """H of `draw`: symmetric and orthogonal, so its own inverse."""
  return scipy.linalg.hadamard(features) / np.sqrt(features)


def _check_names(
  config: Mapping[str, settings.Modality], names: Collection[str]
) -> None:
  """Raises ValueError if the config lacks one of the names."""
  unknown = sorted(set(names) - set(config))
  if unknown:
    raise ValueError(
      f'Unknown modalities {unknown}; the config has {list(config)}.'
    )
