"""Views of feature sequences, and of scores as labels."""

import abc
import dataclasses
import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_pipelines import sources


@dataclasses.dataclass(frozen=True)
class _Cut:
  """A stored sequence, cut at its start and to a maximal length."""

  source: str
  max_length: int
  cut_by: str | None = None

  def __post_init__(self) -> None:
    if self.max_length < 1:
      raise ValueError(
        f'Expected a max_length of at least 1, got {self.max_length}.'
      )

  def _steps(self, element: sources.Element) -> npt.NDArray[Any]:
    """Returns the stored steps from the first one to keep."""
    steps = _sequence(element, self.source)
    if self.cut_by is None:
      return steps
    other = _sequence(element, self.cut_by)
    if len(other) != len(steps):
      raise ValueError(
        f'Expected {self.source!r} and {self.cut_by!r} to have the same number'
        f' of steps, got {len(steps)} and {len(other)}. Only aligned sequences'
        ' can be cut together; use cut_by=None for others.'
      )
    # If all is zero, argmax is 0, and nothing is cut.
    return steps[np.argmax(other.any(axis=1)) :] if len(other) else steps


class PaddedSequence(_Cut):
  """A sequence of fixed length: cut, or padded with zeros on the right.

  The published sequences are padded on the left. With `cut_by='text'`, every
  modality starts at the first step at which the text is not all zero, as in
  MultiBench and AGM for aligned sequences. If all of the text is zero, nothing
  is cut. Values that are not finite, such as the logarithms of silence in the
  audio features, become 0.

  Attributes:
    source: Name of the stored sequence.
    max_length: Steps of the view.
    cut_by: Name of the sequence, of the same length, that says where to start.
      None starts at the beginning and keeps the padding, as BalanceBenchmark
      does.

  Raises:
    ValueError: if max_length is below 1.

  Examples:
    >>> import numpy as np
    >>> element = {
    ...   'text': np.float32([[0, 0], [0, 1], [0, 0]]),
    ...   'audio': np.float32([[5], [6], [-np.inf]]),
    ... }
    >>> PaddedSequence('audio', 4, cut_by='text')(element, None).ravel()
    array([6., 0., 0., 0.], dtype=float32)
    >>> PaddedSequence('audio', 2)(element, None).ravel()
    array([5., 6.], dtype=float32)
  """

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> npt.NDArray[np.float32]:
    """Makes [max_length, d] of [steps, d]; see `View`.

    Raises:
      ValueError: if an entry is missing or not a sequence, or the two differ in
        length.
    """
    del random
    steps = self._steps(element)[: self.max_length]
    padded = np.zeros([self.max_length, steps.shape[1]], np.float32)
    padded[: len(steps)] = np.nan_to_num(steps, posinf=0, neginf=0)
    return padded


class SequenceLength(_Cut):
  """How many steps of a `PaddedSequence` come from the stored sequence.

  The attributes are those of `PaddedSequence`.

  Examples:
    >>> import numpy as np
    >>> element = {'text': np.float32([[0, 0], [0, 1], [0, 0]])}
    >>> SequenceLength('text', 4, cut_by='text')(element, None)
    array(2, dtype=int32)
  """

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> npt.NDArray[np.int32]:
    """Counts the steps; an empty sequence counts as 1. See `PaddedSequence`."""
    del random
    # A mean over no steps would be NaN.
    length = max(len(self._steps(element)), 1)
    return np.array(min(length, self.max_length), np.int32)


class _OfScore(abc.ABC):
  """A label made from a stored score, a single finite number."""

  source: str

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> npt.NDArray[Any]:
    """Makes the label, of rank 0; see `View`.

    Raises:
      ValueError: if the score is missing or not a single finite number.
    """
    del random
    score = np.asarray(sources.entry(element, self.source))
    if score.size != 1 or not math.isfinite(score.item()):
      raise ValueError(
        f'Expected {self.source!r} to be a single finite number, got {score!r}.'
      )
    return self._label(float(score.item()))

  @abc.abstractmethod
  def _label(self, score: float) -> npt.NDArray[Any]:
    """Makes the label of a score; each view implements it."""


@dataclasses.dataclass(frozen=True)
class BinaryLabel(_OfScore):
  """The sign of a score as a class, 0 or 1.

  The field has two conventions for a score of zero, and they give different
  accuracies: BalanceBenchmark and AGM count it as positive, MultiBench as
  negative.

  Attributes:
    zero: The class of a score of zero, 'positive' (1) or 'negative' (0).
    source: Name of the stored score.

  Raises:
    ValueError: if `zero` is neither.

  Examples:
    >>> element = {'score': 0.0}
    >>> BinaryLabel('positive')(element, None)
    array(1)
    >>> BinaryLabel('negative')(element, None)
    array(0)
  """

  zero: Literal['positive', 'negative']
  source: str = 'score'

  def __post_init__(self) -> None:
    if self.zero not in ('positive', 'negative'):
      raise ValueError(
        f"Expected zero to be 'positive' or 'negative', got {self.zero!r}."
      )

  def _label(self, score: float) -> npt.NDArray[np.int64]:
    is_one = score >= 0 if self.zero == 'positive' else score > 0
    return np.array(is_one, np.int64)


@dataclasses.dataclass(frozen=True)
class SevenClassLabel(_OfScore):
  """A score from -3 to 3 as one of seven classes, 3 for exactly zero.

  The classes, from 0 to 6: (-∞, -2), [-2, -1), [-1, 0), {0}, (0, 1], (1, 2] and
  (2, ∞).

  Attributes:
    source: Name of the stored score.

  Examples:
    >>> [SevenClassLabel()({'score': s}, None).item() for s in (-2, 0, 0.5, 3)]
    [1, 3, 4, 6]
  """

  source: str = 'score'

  def _label(self, score: float) -> npt.NDArray[np.int64]:
    # Borders belong to the class nearer to zero; zero is a class of its own.
    passed = [score >= -2, score >= -1, score >= 0]
    passed += [score > 0, score > 1, score > 2]
    return np.array(sum(passed), np.int64)


@dataclasses.dataclass(frozen=True)
class Score(_OfScore):
  """A score as it is stored, for regression.

  Attributes:
    source: Name of the stored score.

  Examples:
    >>> Score()({'score': [[-1.5]]}, None)
    array(-1.5, dtype=float32)
  """

  source: str = 'score'

  def _label(self, score: float) -> npt.NDArray[np.float32]:
    return np.array(score, np.float32)


def _sequence(element: sources.Element, name: str) -> npt.NDArray[Any]:
  sequence = np.asarray(sources.entry(element, name))
  if sequence.ndim != 2:
    raise ValueError(
      f'Expected {name!r} to be a sequence [steps, d], got the shape '
      f'{list(sequence.shape)}.'
    )
  return sequence
