"""Linear probes: how well frozen features separate the classes."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from sklearn import dummy
from sklearn import exceptions
from sklearn import linear_model
from sklearn import pipeline
from sklearn import preprocessing

from experiments.evaluate import evaluate
from experiments.evaluate import metrics

_TOLERANCE = 1e-7
_MAX_ITERS = 10_000


def fit(
  features: metrics.Array, labels: metrics.Array, *, l2: float = 1e-3
) -> pipeline.Pipeline:
  """Fits a multinomial logistic regression, to its optimum.

  Minimises, over kernel W and bias b, with l2 above 0,

    meanₙ cross-entropy(zₙ W + b, labelₙ) + l2 / 2 · ‖W‖²

  for features z [N, d] standardised by their mean and standard deviation, until
  the gradient is about 1e-7. The penalty makes the optimum unique except for a
  constant in b, which changes no answer. So there is no learning rate, number
  of epochs or seed to choose, and the answers depend on features and l2 alone.
  BalanceBenchmark's probe, with which they cannot be compared, trains a linear
  layer by the optimizer of the model, on augmented inputs, and keeps the last
  epoch's weights. A class without rows is never predicted.

  Raises:
    ValueError: if features are not finite.
    FloatingPointError: if the optimum was not reached.
  """
  if not np.all(np.isfinite(features)):
    raise ValueError('Expected finite features. Did the training diverge?')
  num_classes = len(np.unique(labels))
  # For two classes, scikit-learn fits the difference d of the logits only. With
  # logits of -d / 2 and d / 2, our penalty is half of the one on d.
  strength = (2 if num_classes == 2 else 1) / (len(labels) * l2)
  regression = linear_model.LogisticRegression(
    C=strength, solver='lbfgs', tol=_TOLERANCE, max_iter=_MAX_ITERS
  )
  fitted = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    regression if num_classes > 1 else dummy.DummyClassifier(),
  )
  with warnings.catch_warnings():
    warnings.simplefilter('error', exceptions.ConvergenceWarning)
    try:
      return fitted.fit(features.astype(np.float64), labels)
    except exceptions.ConvergenceWarning as error:
      raise FloatingPointError(
        f'The optimum was not reached in {_MAX_ITERS} iterations: give a'
        f' larger l2 than {l2}.'
      ) from error


def probe(
  model: Any,
  variables: Any,
  train_batches: Iterable[evaluate.Batch],
  test_batches: Iterable[evaluate.Batch],
  *,
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
    f'probe/{name}': float(fit(*train[name], l2=l2).score(*test[name]))
    for name in (*modalities, 'fused')
  }
