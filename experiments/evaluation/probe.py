"""Linear probes: how well frozen features tell the classes apart."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn import exceptions
from sklearn import linear_model

from experiments.evaluation import evaluate
from experiments.evaluation import metrics

_TOLERANCE = 1e-7
_MAX_ITERS = 10_000


class Linear(NamedTuple):
  """Linear map from features to logits."""

  kernel: metrics.Array  # [d, C]
  bias: metrics.Array  # [C]


def fit(
  features: metrics.Array,
  labels: metrics.Array,
  num_classes: int,
  l2: float = 1e-3,
) -> Linear:
  """Fits a multinomial logistic regression, to its optimum.

  Minimises, over kernel W and bias b,

    meanₙ cross-entropy(zₙ W + b, labelₙ) + l2 / 2 · ‖W‖²

  for features z standardised by their mean and standard deviation, until the
  gradient is about 1e-7. The penalty makes the optimum unique but for a
  constant in b, which changes no answer. So there is no learning rate, number
  of epochs or seed to choose: by scikit-learn's `LogisticRegression`, L-BFGS in
  float64. A class without a label is never answered: its bias is -inf.

  Args:
    features: [N, d], finite. A constant one gets no weight.
    labels: [N], integers from 0 to num_classes - 1.
    num_classes: C.
    l2: the strength of the penalty, above 0.

  Returns:
    The map for features as given, not standardised.

  Raises:
    ValueError: if an argument is not as said.
    FloatingPointError: if the optimum was not reached.

  Examples:
    >>> features = np.array([[0.0], [1.0], [4.0]])
    >>> linear = fit(features, np.array([0, 0, 1]), num_classes=2, l2=0.1)
    >>> linear.kernel
    array([[-0.604,  0.604]])
  """
  features, labels = np.asarray(features), np.asarray(labels)
  if (
    features.ndim != 2
    or labels.shape != features.shape[:1]
    or labels.dtype.kind not in 'iu'
    or not features.size
  ):
    raise ValueError(
      'Expected features [N, d] and integer labels [N], got shapes'
      f' {features.shape} and {labels.shape} of {labels.dtype}.'
    )
  if np.min(labels) < 0 or np.max(labels) >= num_classes:
    raise ValueError(
      f'Expected labels from 0 to {num_classes - 1}, got {np.min(labels)} to'
      f' {np.max(labels)}.'
    )
  if not np.all(np.isfinite(features)):
    raise ValueError('Expected finite features. Did the training diverge?')
  if not l2 > 0:
    raise ValueError(
      f'Expected l2 above 0, got {l2}: without it classes that can be separated'
      ' have no optimum.'
    )
  features = features.astype(np.float64)
  mean = np.mean(features, 0)
  # Constants are told by their range: rounding may leave a deviation above 0.
  is_constant = np.ptp(features, 0) == 0
  std = np.where(is_constant, 1, np.std(features, 0))
  standardised = np.where(is_constant, 0, (features - mean) / std)
  kernel = np.zeros((features.shape[1], num_classes))
  bias = np.full(num_classes, -np.inf)
  present = np.unique(labels)
  if len(present) == 1:
    bias[present] = 0
    return Linear(kernel, bias)
  # Of two classes scikit-learn fits the difference d of the logits alone: with
  # logits of -d / 2 and d / 2, ours is half the penalty on it.
  is_binary = len(present) == 2
  solver = linear_model.LogisticRegression(
    C=(2 if is_binary else 1) / (len(labels) * l2),
    solver='lbfgs',
    tol=_TOLERANCE,
    max_iter=_MAX_ITERS,
  )
  with warnings.catch_warnings():
    warnings.simplefilter('error', exceptions.ConvergenceWarning)
    try:
      solver.fit(standardised, labels)
    except exceptions.ConvergenceWarning as error:
      raise FloatingPointError(
        f'The optimum was not reached in {_MAX_ITERS} iterations: give a'
        f' larger l2 than {l2}.'
      ) from error
  weights, constants = solver.coef_, solver.intercept_
  if is_binary:
    weights, constants = (
      np.concatenate([-of_d, of_d]) / 2 for of_d in (weights, constants)
    )
  kernel[:, present] = weights.T / std[:, None]
  bias[present] = constants
  return Linear(kernel, bias - mean @ kernel)


def linear_probe(
  features: metrics.Array,
  labels: metrics.Array,
  test_features: metrics.Array,
  test_labels: metrics.Array,
  num_classes: int,
  l2: float = 1e-3,
) -> float:
  """Test accuracy of a logistic regression on frozen features.

  See `fit`. BalanceBenchmark's probe trains a linear layer by the optimizer of
  the model, for a number of epochs, on augmented inputs, and keeps the last
  epoch's weights, so its number depends on all of these. This one depends on
  the features and l2 alone, and the two cannot be compared.

  Args:
    features: of the training rows, [N, d].
    labels: of the training rows, [N].
    test_features: of the test rows, [n, d].
    test_labels: of the test rows, [n].
    num_classes: the number of classes.
    l2: the strength of the penalty, above 0.

  Returns:
    The share of right answers on the test rows.

  Raises:
    ValueError: if an argument is not as said.
    FloatingPointError: if the optimum was not reached.

  Examples:
    >>> rng = np.random.default_rng(0)
    >>> labels, test_labels = np.arange(60) % 3, np.arange(30) % 3
    >>> features = np.eye(3)[labels] + 0.1 * rng.normal(size=(60, 3))
    >>> test_features = np.eye(3)[test_labels] + 0.1 * rng.normal(size=(30, 3))
    >>> linear_probe(features, labels, test_features, test_labels, 3)
    1.0
  """
  linear = fit(features, labels, num_classes, l2)
  return metrics.accuracy(
    test_features @ linear.kernel + linear.bias, test_labels
  )


def probe(
  model: Any,
  variables: Any,
  train_batches: Iterable[evaluate.Batch],
  test_batches: Iterable[evaluate.Batch],
  *,
  num_classes: int,
  target: str = 'label',
  l2: float = 1e-3,
  finish: Callable[[evaluate.Batch], evaluate.Batch] = lambda batch: batch,
) -> dict[str, float]:
  """Linear probes of a model's frozen encoders, each alone and all together.

  Args:
    model: a Flax module with `encoders`, a mapping by modality, and a method
      `features` from inputs to `{modality: [batch, d]}`, in evaluation mode
      unless told otherwise; `mimo_jax.nn.LateFusion` for one.
    variables: the model's, of one seed.
    train_batches: batches that hold each training row once, with `mask`, as
      `data_pipelines.loader.evaluation_batches` makes, and not augmented. One
      pass is made; the features of all rows are held in memory.
    test_batches: the same of the test rows.
    num_classes: the number of classes.
    target: the name of the labels [batch] in the batches.
    l2: the strength of the penalty, above 0.
    finish: what remains to be done to the inputs on the device: `data.finish`.

  Returns:
    Test accuracies: `probe/<modality>`, from the features of that modality
    alone, and `probe/fused`, from those of all side by side.

  Raises:
    ValueError: if a batch lacks a modality, or the labels are no classes.
    FloatingPointError: if an optimum was not reached.

  Examples:
    >>> class Model:  # its features are its inputs
    ...   encoders = ('a', 'b')
    ...   def apply(self, variables, inputs, method):
    ...     return inputs
    >>> batch = {
    ...   'a': np.float32([[0], [0], [1], [1]]),  # one bit of the label each
    ...   'b': np.float32([[0], [1], [0], [1]]),
    ...   'label': np.arange(4),
    ...   'mask': np.ones(4, bool),
    ... }
    >>> probe(Model(), {}, [batch], [batch], num_classes=4)
    {'probe/a': 0.5, 'probe/b': 0.5, 'probe/fused': 1.0}
  """
  modalities = sorted(model.encoders)

  @jax.jit
  def apply(variables: Any, inputs: evaluate.Batch) -> dict[str, jax.Array]:
    features: dict[str, jax.Array] = model.apply(
      variables, dict(finish(inputs)), method='features'
    )
    return features

  def collect(
    batches: Iterable[evaluate.Batch],
  ) -> tuple[dict[str, metrics.Array], metrics.Array]:
    return _collect(
      lambda inputs: apply(variables, inputs), batches, modalities, target
    )

  features, labels = collect(train_batches)
  test_features, test_labels = collect(test_batches)
  return {
    f'probe/{name}': linear_probe(
      features[name], labels, test_features[name], test_labels, num_classes, l2
    )
    for name in (*modalities, 'fused')
  }


def _collect(
  features_fn: Callable[[evaluate.Batch], dict[str, jax.Array]],
  batches: Iterable[evaluate.Batch],
  modalities: list[str],
  target: str,
) -> tuple[dict[str, metrics.Array], metrics.Array]:
  """Features of each modality and of all, and labels, of all rows."""
  parts = []
  for batch in batches:
    inputs = evaluate.model_inputs(batch, modalities)
    features = jax.device_get(features_fn(inputs))
    features['fused'] = np.concatenate([features[m] for m in modalities], 1)
    mask = np.asarray(batch['mask'], bool)
    parts.append(
      ({k: v[mask] for k, v in features.items()}, batch[target][mask])
    )
  if not parts:
    raise ValueError('Expected at least one batch, got none.')
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
