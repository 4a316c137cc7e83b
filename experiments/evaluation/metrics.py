"""Metrics of a model's outputs: each from all of them and all targets.

Metrics of classes take logits [N, C] and labels [N]; an answer is the class of
the largest logit, the first one in a tie. Metrics of a regression take outputs
[N, 1] or [N] and targets [N], which for the sentiment scores of CMU-MOSI and
CMU-MOSEI lie in [-3, 3]. All are computed on the host in float64, since many
are no sums over batches. `get` finds one by its name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Metric = Callable[[Array, Array], float]


def accuracy(outputs: Array, targets: Array) -> float:
  """Share of right answers.

  Args:
    outputs: logits [N, C].
    targets: labels [N], integers from 0 to C - 1.

  Returns:
    A number in [0, 1].

  Raises:
    ValueError: if the shapes or labels are others.

  Examples:
    >>> logits = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    >>> accuracy(logits, np.array([0, 1, 1]))
    0.667
  """
  outputs, targets = _of_classes(outputs, targets)
  return float(np.mean(np.argmax(outputs, 1) == targets))


def macro_f1(outputs: Array, targets: Array) -> float:
  """F1 of each class, averaged over classes.

  F1 of a class is 2 tp / (2 tp + fp + fn), from its counts of true positives,
  false positives and false negatives, and 0 where all three are 0. The mean is
  over all C classes, as BalanceBenchmark's: a class that the targets lack
  counts 0. (Scikit-learn's default averages over the classes that occur among
  targets or answers.)

  Args:
    outputs: logits [N, C].
    targets: labels [N], integers from 0 to C - 1.

  Returns:
    A number in [0, 1].

  Raises:
    ValueError: if the shapes or labels are others.

  Examples:
    >>> logits = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    >>> macro_f1(logits, np.array([0, 1, 1]))  # of both classes 2 / 3
    0.667
  """
  outputs, targets = _of_classes(outputs, targets)
  scores = _f1(np.argmax(outputs, 1), targets, outputs.shape[1])
  return float(np.mean(scores))


def mean_average_precision(outputs: Array, targets: Array) -> float:
  """Average precision of each class, averaged over the classes that occur.

  For each class the items are ranked by its softmax score, and the average
  precision is Σₙ (Rₙ − Rₙ₋₁) Pₙ, with precision P and recall R of the items at
  or above each distinct score: items of equal score have no order. That is
  scikit-learn's `average_precision_score`, without interpolation, and the mAP
  that audio-visual benchmarks report for one label an item. Where no score
  tells the items apart, it is the mean share of the classes that occur.

  Args:
    outputs: logits [N, C].
    targets: labels [N], integers from 0 to C - 1.

  Returns:
    A number in (0, 1]; NaN if an output is not finite, since such scores have
    no order.

  Raises:
    ValueError: if the shapes or labels are others.

  Examples:
    >>> logits = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    >>> mean_average_precision(logits, np.array([0, 1, 1]))  # both 1
    1.0
    >>> mean_average_precision(logits, np.array([1, 0, 1]))  # 1/3 and 7/12
    0.458
  """
  outputs, targets = _of_classes(outputs, targets)
  if not np.all(np.isfinite(outputs)):
    return float('nan')
  # Logarithms of the softmax: they rank as it does, and do not underflow.
  scores = outputs - np.max(outputs, 1, keepdims=True)
  scores -= np.log(np.sum(np.exp(scores), 1, keepdims=True))
  occurring = np.unique(targets)
  precisions = [
    _average_precision(scores[:, c], targets == c) for c in occurring
  ]
  return float(np.mean(precisions))


def mean_absolute_error(outputs: Array, targets: Array) -> float:
  """Mean of |output - target|; the smaller the better.

  Args:
    outputs: [N, 1] or [N].
    targets: [N].

  Returns:
    A number of at least 0.

  Raises:
    ValueError: if the shapes are others.

  Examples:
    >>> mean_absolute_error(np.array([1.0, -2.0]), np.array([0.5, -1.0]))
    0.75
  """
  outputs, targets = _of_regression(outputs, targets)
  return float(np.mean(np.abs(outputs - targets)))


def correlation(outputs: Array, targets: Array) -> float:
  """Pearson's correlation of outputs and targets.

  Args:
    outputs: [N, 1] or [N].
    targets: [N].

  Returns:
    A number in [-1, 1]; NaN where the outputs or the targets are all the same,
    which leaves it undefined.

  Raises:
    ValueError: if the shapes are others.

  Examples:
    >>> correlation(np.array([1.0, 2.0, 4.0]), np.array([-1.0, 0.0, 2.0]))
    1.0
  """
  outputs, targets = _of_regression(outputs, targets)
  # Asked of the values: rounding may leave constants a variance above 0.
  if np.ptp(outputs) == 0 or np.ptp(targets) == 0:
    return float('nan')
  x, y = outputs - np.mean(outputs), targets - np.mean(targets)
  return float(np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y)))


def binary_accuracy(outputs: Array, targets: Array) -> float:
  """Share of outputs of the target's sign, among targets other than 0.

  An output of exactly 0 counts as negative. This is "Acc-2" of CMU-MOSI and
  CMU-MOSEI in its non-zero variant, that of MulT and MultiBench.

  Args:
    outputs: [N, 1] or [N].
    targets: [N].

  Returns:
    A number in [0, 1]; NaN if all targets are 0.

  Raises:
    ValueError: if the shapes are others.

  Examples:
    >>> outputs = np.array([0.2, -0.1, 1.0, 0.5])
    >>> binary_accuracy(outputs, np.array([1.0, -2.0, -1.0, 0.0]))
    0.667
  """
  answers, labels = _signs(outputs, targets)
  return float(np.mean(answers == labels)) if len(labels) else float('nan')


def binary_accuracy_with_zero(outputs: Array, targets: Array) -> float:
  """Share of outputs on the target's side of 0, where 0 is positive.

  "Acc-2" of CMU-MOSI and CMU-MOSEI in its other variant, often called "has0":
  negative against non-negative, of all targets.

  Args:
    outputs: [N, 1] or [N].
    targets: [N].

  Returns:
    A number in [0, 1].

  Raises:
    ValueError: if the shapes are others.

  Examples:
    >>> outputs = np.array([0.2, -0.1, 1.0, 0.5])
    >>> binary_accuracy_with_zero(outputs, np.array([1.0, -2.0, -1.0, 0.0]))
    0.75
  """
  outputs, targets = _of_regression(outputs, targets)
  return float(np.mean((outputs >= 0) == (targets >= 0)))


def seven_class_accuracy(outputs: Array, targets: Array) -> float:
  """Share of outputs that round to the same of -3, -2, ..., 3 as the target.

  Both are clipped to [-3, 3] and rounded, halves to the even neighbour. "Acc-7"
  of CMU-MOSI and CMU-MOSEI.

  Args:
    outputs: [N, 1] or [N].
    targets: [N].

  Returns:
    A number in [0, 1].

  Raises:
    ValueError: if the shapes are others.

  Examples:
    >>> outputs = np.array([1.4, -3.8, 0.4])
    >>> seven_class_accuracy(outputs, np.array([1.0, -3.0, 1.0]))
    0.667
  """
  outputs, targets = _of_regression(outputs, targets)
  outputs, targets = np.clip(outputs, -3, 3), np.clip(targets, -3, 3)
  return float(np.mean(np.round(outputs) == np.round(targets)))


def weighted_f1(outputs: Array, targets: Array) -> float:
  """F1 of both signs, weighted by their shares of the targets other than 0.

  Goes with `binary_accuracy`: targets of 0 are left out, an output of 0 counts
  as negative. The weights are those of scikit-learn's definition and of MMSA;
  MulT's code gives scikit-learn its arguments in the other order, so that the
  shares of the answers weigh there.

  Args:
    outputs: [N, 1] or [N].
    targets: [N].

  Returns:
    A number in [0, 1]; NaN if all targets are 0.

  Raises:
    ValueError: if the shapes are others.

  Examples:
    >>> outputs = np.array([0.2, -0.1, 1.0, 0.5])
    >>> weighted_f1(outputs, np.array([1.0, -2.0, -1.0, 0.0]))  # of both 2 / 3
    0.667
  """
  answers, labels = _signs(outputs, targets)
  if not len(labels):
    return float('nan')
  shares = np.bincount(labels, minlength=2) / len(labels)
  return float(np.sum(shares * _f1(answers, labels, 2)))


METRICS: dict[str, Metric] = {
  metric.__name__: metric
  for metric in (
    accuracy,
    macro_f1,
    mean_average_precision,
    mean_absolute_error,
    correlation,
    binary_accuracy,
    binary_accuracy_with_zero,
    seven_class_accuracy,
    weighted_f1,
  )
}


def get(name: str) -> Metric:
  """The metric of a name.

  Raises:
    ValueError: if there is none.

  Examples:
    >>> get('accuracy') is accuracy
    True
  """
  if name not in METRICS:
    raise ValueError(f'There is no metric {name!r}; there are {list(METRICS)}.')
  return METRICS[name]


def check_primary(names: Sequence[str]) -> None:
  """Refuses a primary metric, the first, by which no run can be chosen.

  Args:
    names: `config.evaluation.metrics`.

  Raises:
    ValueError: if it is an error, of which the smallest is the best: where runs
      are compared, the highest is.

  Examples:
    >>> check_primary(('correlation', 'mean_absolute_error'))
  """
  if get(names[0]) is mean_absolute_error:
    raise ValueError(
      f'config.evaluation.metrics begins with {names[0]!r}, and the run whose'
      ' first metric is highest is taken for the best; expected an error behind'
      " it, as in ('correlation', 'mean_absolute_error')."
    )


def _of_classes(outputs: Array, targets: Array) -> tuple[Array, Array]:
  """Logits in float64, and labels; refuses others."""
  outputs, targets = np.asarray(outputs), np.asarray(targets)
  if (
    outputs.ndim != 2
    or targets.shape != outputs.shape[:1]
    or targets.dtype.kind not in 'iu'
    or not targets.size
  ):
    raise ValueError(
      'Expected logits [N, C] and integer labels [N] of at least one item, got'
      f' shapes {outputs.shape} and {targets.shape} of {targets.dtype}. A'
      ' regression has metrics of its own, mean_absolute_error for one.'
    )
  if np.min(targets) < 0 or np.max(targets) >= outputs.shape[1]:
    raise ValueError(
      f'Expected labels from 0 to {outputs.shape[1] - 1}, one less than the'
      f' number of logits; got {np.min(targets)} to {np.max(targets)}.'
    )
  return outputs.astype(np.float64), targets


def _of_regression(outputs: Array, targets: Array) -> tuple[Array, Array]:
  """Both [N] in float64; refuses other shapes, which might broadcast."""
  outputs, targets = np.asarray(outputs), np.asarray(targets)
  number = targets.shape
  if (
    len(number) != 1
    or outputs.shape not in (number, (*number, 1))
    or not targets.size
  ):
    raise ValueError(
      'Expected outputs [N, 1] or [N] and targets [N] of at least one item, got'
      f' shapes {outputs.shape} and {targets.shape}.'
    )
  return outputs.reshape(number).astype(np.float64), targets.astype(np.float64)


def _signs(outputs: Array, targets: Array) -> tuple[Array, Array]:
  """Which outputs and targets are above 0, where the targets are not 0."""
  outputs, targets = _of_regression(outputs, targets)
  kept = targets != 0
  answers, labels = outputs[kept] > 0, targets[kept] > 0
  return answers.astype(np.int64), labels.astype(np.int64)


def _f1(answers: Array, labels: Array, num_classes: int) -> Array:
  """F1 of each class, [num_classes]; 0 where a class is nowhere."""
  hits = np.bincount(labels[answers == labels], minlength=num_classes)
  # 2 tp + fp + fn: how often the class was answered, and how often it was so.
  both = np.bincount(answers, minlength=num_classes) + np.bincount(
    labels, minlength=num_classes
  )
  return 2 * hits / np.maximum(both, 1)


def _average_precision(scores: Array, is_positive: Array) -> float:
  """Average precision of one class, from scores [N] and truths [N]."""
  order = np.argsort(-scores, kind='stable')
  hits = np.cumsum(is_positive[order])
  # Precision and recall stand after the last of items with equal scores.
  last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
  precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
  return float(np.sum(np.diff(recall, prepend=0) * precision))
