"""Metrics of outputs and targets.

Metrics of classes take logits [N, C] and integer labels [N] from 0 to C - 1; an
answer is the class of the largest logit, the first one in a tie. Metrics of a
regression take outputs [N, 1] or [N] and targets [N], which for the sentiment
scores of CMU-MOSI and CMU-MOSEI lie in [-3, 3]. Arrays of another form, or
without a row, raise a ValueError. All metrics are computed on the host in
float64, since many are not sums over batches. `get` finds a metric by its name,
or your own by 'package.module:function'. If your metric is an error, set its
attribute `higher_is_better = False`; if it is to be written in per cent,
`is_share = True`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special
from sklearn import metrics as sklearn_metrics

from experiments.core import named

Array = npt.NDArray[Any]
Metric = Callable[[Array, Array], float]


def accuracy(outputs: Array, targets: Array) -> float:
  """Share of right answers."""
  outputs, targets = _of_classes(outputs, targets)
  return float(np.mean(np.argmax(outputs, 1) == targets))


def macro_f1(outputs: Array, targets: Array) -> float:
  """F1 of each class, averaged over classes.

  F1 of a class is 2 tp / (2 tp + fp + fn), with its true positives, false
  positives and false negatives, and 0 if all three are 0. The mean is over all
  C classes, as in BalanceBenchmark. (Scikit-learn's default averages over the
  classes that occur among targets or answers.)
  """
  outputs, targets = _of_classes(outputs, targets)
  answers, classes = np.argmax(outputs, 1), range(outputs.shape[1])
  f1 = sklearn_metrics.f1_score(
    targets, answers, labels=classes, average='macro', zero_division=0
  )
  return float(f1)


def mean_average_precision(outputs: Array, targets: Array) -> float:
  """Average precision of each class, averaged over the classes that occur.

  For each class the items are ranked by its softmax score, and the average
  precision is Σₙ (Rₙ − Rₙ₋₁) Pₙ, with precision P and recall R of the items at
  or above each distinct score. This is scikit-learn's, without interpolation,
  and the mAP that audio-visual benchmarks report for one label per item. NaN if
  an output is not finite: such scores have no order.

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
  # The logarithm ranks as the softmax does, and does not underflow.
  scores = special.log_softmax(outputs, axis=1)
  precision = sklearn_metrics.average_precision_score
  of_class = [precision(targets == c, scores[:, c]) for c in np.unique(targets)]
  return float(np.mean(of_class))


def mean_absolute_error(outputs: Array, targets: Array) -> float:
  """Mean of |output - target|, in the targets' unit; the smaller the better."""
  outputs, targets = _of_regression(outputs, targets)
  return float(np.mean(np.abs(outputs - targets)))


def correlation(outputs: Array, targets: Array) -> float:
  """Pearson's correlation; NaN where outputs or targets are all the same."""
  outputs, targets = _of_regression(outputs, targets)
  # By the range, since rounding may give constants a variance above 0.
  if np.ptp(outputs) == 0 or np.ptp(targets) == 0:
    return float('nan')
  return float(np.corrcoef(outputs, targets)[0, 1])


def binary_accuracy(outputs: Array, targets: Array) -> float:
  """Share of outputs of the target's sign, among targets other than 0.

  An output of exactly 0 counts as negative. This is "Acc-2" of CMU-MOSI and
  CMU-MOSEI in its non-zero variant, that of MulT and MultiBench. NaN if all
  targets are 0.
  """
  answers, labels = _signs(outputs, targets)
  return float(np.mean(answers == labels)) if len(labels) else float('nan')


def binary_accuracy_with_zero(outputs: Array, targets: Array) -> float:
  """Share of outputs on the target's side of 0, where 0 is positive.

  "Acc-2" of CMU-MOSI and CMU-MOSEI in its other variant, often called "has0":
  negative against non-negative, of all targets.
  """
  outputs, targets = _of_regression(outputs, targets)
  return float(np.mean((outputs >= 0) == (targets >= 0)))


def seven_class_accuracy(outputs: Array, targets: Array) -> float:
  """Share of outputs that round to the same of -3, -2, ..., 3 as the target.

  Both are clipped to [-3, 3] and rounded, halves to the even neighbour. "Acc-7"
  of CMU-MOSI and CMU-MOSEI.
  """
  outputs, targets = _of_regression(outputs, targets)
  outputs, targets = np.clip(outputs, -3, 3), np.clip(targets, -3, 3)
  return float(np.mean(np.round(outputs) == np.round(targets)))


def weighted_f1(outputs: Array, targets: Array) -> float:
  """F1 of both signs, weighted by their shares of the targets other than 0.

  It goes with `binary_accuracy`: targets of 0 are left out, and an output of 0
  counts as negative. The weights are those of scikit-learn's definition and of
  MMSA. MulT's code swaps scikit-learn's arguments, so that its weights are the
  shares of the answers. NaN if all targets are 0.
  """
  answers, labels = _signs(outputs, targets)
  if not len(labels):
    return float('nan')
  f1 = sklearn_metrics.f1_score(
    labels, answers, average='weighted', zero_division=0
  )
  return float(f1)


_ERRORS = (mean_absolute_error,)
_SHARES = (
  *(accuracy, macro_f1, mean_average_precision, binary_accuracy),
  *(binary_accuracy_with_zero, seven_class_accuracy, weighted_f1),
)
METRICS: dict[str, Metric] = {
  metric.__name__: metric for metric in (*_SHARES, *_ERRORS, correlation)
}


def get(name: str) -> Metric:
  """The metric of that name.

  Raises:
    ValueError: if there is none.
  """
  if ':' in name:
    own: Metric = named.lookup(None, name)
    return own
  if name not in METRICS:
    raise ValueError(
      f'There is no metric {name!r}; there are {list(METRICS)}, and your own by'
      " 'package.module:function'."
    )
  return METRICS[name]


def higher_is_better(name: str) -> bool:
  """Whether the best value of a metric is the highest; of an error it is not.

  Examples:
    >>> higher_is_better('accuracy'), higher_is_better('mean_absolute_error')
    (True, False)
  """
  metric = get(name)
  return bool(getattr(metric, 'higher_is_better', metric not in _ERRORS))


def is_share(name: str) -> bool:
  """Whether a metric lies in [0, 1] and reads well in per cent."""
  metric = get(name)
  return bool(getattr(metric, 'is_share', metric in _SHARES))


def _of_classes(outputs: Array, targets: Array) -> tuple[Array, Array]:
  """Logits in float64, and labels; refuses others."""
  outputs, targets = np.asarray(outputs), np.asarray(targets)
  if (
    outputs.ndim != 2
    or targets.shape != outputs.shape[:1]
    or targets.dtype.kind not in 'iu'
    or not outputs.size
  ):
    raise ValueError(
      'Expected logits [N, C] and integer labels [N] of at least one item, got'
      f' shapes {outputs.shape} and {targets.shape} of {targets.dtype}. The'
      ' targets of a regression have their own metrics, such as'
      ' mean_absolute_error.'
    )
  num_classes = outputs.shape[1]
  if np.min(targets) < 0 or np.max(targets) >= num_classes:
    raise ValueError(
      f'Expected labels from 0 to {num_classes - 1}, one less than the number'
      f' of classes, got {np.min(targets)} to {np.max(targets)}.'
    )
  return outputs.astype(np.float64), targets


def _of_regression(outputs: Array, targets: Array) -> tuple[Array, Array]:
  """Both [N] in float64; refuses other shapes, which might broadcast."""
  outputs, targets = np.asarray(outputs), np.asarray(targets)
  shape = targets.shape
  is_alike = outputs.shape in (shape, (*shape, 1))
  if len(shape) != 1 or not is_alike or not targets.size:
    raise ValueError(
      'Expected outputs [N, 1] or [N] and targets [N] of at least one item, got'
      f' shapes {outputs.shape} and {shape}.'
    )
  return outputs.reshape(shape).astype(np.float64), targets.astype(np.float64)


def _signs(outputs: Array, targets: Array) -> tuple[Array, Array]:
  """Which outputs and targets are above 0, where the targets are not 0."""
  outputs, targets = _of_regression(outputs, targets)
  kept = targets != 0
  return outputs[kept] > 0, targets[kept] > 0
