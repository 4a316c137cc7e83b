"""Linear probes: how well frozen features separate the classes."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn import exceptions
from sklearn import linear_model

from experiments.evaluate import evaluate
from experiments.evaluate import metrics

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

  Minimises, over kernel W and bias b, with l2 above 0,

    meanₙ cross-entropy(zₙ W + b, labelₙ) + l2 / 2 · ‖W‖²

  for features z [N, d] standardised by their mean and standard deviation, until
  the gradient is about 1e-7. The penalty makes the optimum unique except for a
  constant in b, which changes no answer. So there is no learning rate, number
  of epochs or seed to choose. The solver is L-BFGS in float64, that of
  scikit-learn's `LogisticRegression`. A constant feature gets no weight. A
  class without rows is never predicted: its bias is -inf. The map returned is
  for features as given, not standardised.

  Raises:
    ValueError: if features are not finite or labels [N] no classes.
    FloatingPointError: if the optimum was not reached.
  """
  features, labels = np.asarray(features), np.asarray(labels)
  metrics.check_classes('features [N, d]', features, labels, num_classes)
  if not np.all(np.isfinite(features)):
    raise ValueError('Expected finite features. Did the training diverge?')
  if not l2 > 0:
    raise ValueError(
      f'Expected l2 above 0, got {l2}: without it classes that can be separated'
      ' have no optimum.'
    )
  features = features.astype(np.float64)
  mean = np.mean(features, 0)
  # By the range, since rounding may give constants a deviation above 0.
  is_constant = np.ptp(features, 0) == 0
  std = np.where(is_constant, 1, np.std(features, 0))
  standardised = np.where(is_constant, 0, (features - mean) / std)
  kernel = np.zeros((features.shape[1], num_classes))
  bias = np.full(num_classes, -np.inf)
  present = np.unique(labels)
  if len(present) == 1:
    bias[present] = 0
    return Linear(kernel, bias)
  # For two classes, scikit-learn fits the difference d of the logits only. With
  # logits of -d / 2 and d / 2, our penalty is half of the one on d.
  is_binary = len(present) == 2
  strength = (2 if is_binary else 1) / (len(labels) * l2)
  solver = linear_model.LogisticRegression(
    C=strength, solver='lbfgs', tol=_TOLERANCE, max_iter=_MAX_ITERS
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
    weights = np.concatenate([-weights, weights]) / 2
    constants = np.concatenate([-constants, constants]) / 2
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
  """Test accuracy of a logistic regression, see `fit`, on frozen features.

  BalanceBenchmark's probe trains a linear layer by the optimizer of the model,
  for a number of epochs, on augmented inputs, and keeps the last epoch's
  weights, so its number depends on all of these. This one depends on the
  features and l2 alone, and the two cannot be compared.
  """
  kernel, bias = fit(features, labels, num_classes, l2)
  return metrics.accuracy(test_features @ kernel + bias, test_labels)


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
      unless told otherwise, such as `mimo_jax.nn.LateFusion`.
    variables: the model's, of one seed.
    train_batches: each training row once, with `mask`, as
      `data_pipelines.loader.evaluation_batches` makes, and not augmented. The
      features of all rows are held in memory. Rows where `<modality>_present`
      is False are left out of that modality's own probe.
    test_batches: the same for the test rows.
    num_classes: the number of classes.
    target: the name of the labels [batch] in the batches.
    l2: the strength of the penalty, above 0.
    finish: finishes the inputs on the device, as `data.finish` does.

  Returns:
    Test accuracies of each modality's features alone, `probe/<modality>`, and
    of those of all side by side, `probe/fused`.
  """
  modalities = sorted(model.encoders)

  @jax.jit
  def apply(variables: Any, inputs: evaluate.Batch) -> dict[str, Any]:
    features: dict[str, Any] = model.apply(
      variables, dict(finish(inputs)), method='features'
    )
    return features

  def collect(batches: Iterable[evaluate.Batch]) -> Any:
    """Features and labels of the rows that have each modality, and of all."""
    parts = []
    for batch in batches:
      inputs = evaluate.model_inputs(batch, modalities)
      features = jax.device_get(apply(variables, inputs))
      features['fused'] = np.concatenate([features[m] for m in modalities], 1)
      part = {}
      for name, values in features.items():
        rows = np.asarray(batch['mask'], bool)
        if f'{name}_present' in inputs:
          rows = rows & np.asarray(inputs[f'{name}_present'], bool)
        part[name] = values[rows], batch[target][rows]
      parts.append(part)
    if not parts:
      raise ValueError('Expected at least one batch, got none.')
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

  train, test = collect(train_batches), collect(test_batches)
  return {
    f'probe/{name}': linear_probe(*(*train[name], *test[name], num_classes, l2))
    for name in (*modalities, 'fused')
  }
