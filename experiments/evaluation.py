"""Accuracy, whole and with sensors missing or noisy."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import training
from mimo_jax import nn

# Noise is the same for every model and method: they face the same sensors.
_NOISE_SEED = 0


def make_evaluation_step(
  model: nn.LateFusion, noise: float
) -> Callable[[Any, training.Batch, int], dict[str, jax.Array]]:
  """Makes the pure function that counts correct answers in one batch.

  Args:
    model: gives `{'fused': logits, modality: logits, ...}`.
    noise: standard deviation of the sensor noise, in units of the inputs
      (which are standardised, so of each feature's standard deviation).

  Returns:
    `step(params, batch, index)` -> counts: `accuracy/<output>`,
    `missing/<modality>` (fused, that modality's input zero, which is its mean
    over the training rows), `noise/fused` (fused, Gaussian noise on all
    inputs), and `count`, the number of real rows.
  """
  modalities = sorted(model.encoders)

  def step(
    params: Any, batch: training.Batch, index: int
  ) -> dict[str, jax.Array]:
    def correct(inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
      logits: Any = model.apply({'params': params}, inputs)
      return {
        name: jnp.sum((jnp.argmax(value, -1) == batch['label']) & batch['mask'])
        for name, value in logits.items()
      }

    inputs = {name: batch[name] for name in modalities}
    counts = {f'accuracy/{k}': v for k, v in correct(inputs).items()}
    for name in modalities:
      without = inputs | {name: jnp.zeros_like(inputs[name])}
      counts[f'missing/{name}'] = correct(without)['fused']
    key = jax.random.fold_in(jax.random.key(_NOISE_SEED), index)
    keys = jax.random.split(key, len(modalities))
    noisy = {
      name: inputs[name] + noise * jax.random.normal(k, inputs[name].shape)
      for name, k in zip(modalities, keys, strict=True)
    }
    counts['noise/fused'] = correct(noisy)['fused']
    counts['count'] = jnp.sum(batch['mask'])
    return counts

  return step


def evaluate(
  step: Callable[[Any, training.Batch, int], dict[str, jax.Array]],
  params: Any,
  batches: Iterable[training.Batch],
) -> dict[str, np.ndarray[Any, Any]]:
  """Runs an evaluation step over all batches.

  Args:
    step: compiled `make_evaluation_step`, or one vmapped over seeds.
    params: what it takes.
    batches: with `mask`, as `data_pipelines.loader.evaluation_batches` makes.

  Returns:
    Shares of correct answers, in 0..1, under the names of the counts; scalars,
    or [seeds].
  """
  total: dict[str, Any] = {}
  for index, batch in enumerate(batches):
    counts = jax.device_get(step(params, batch, index))
    total = {k: total.get(k, 0) + v for k, v in counts.items()}
  count = total.pop('count')
  return {name: np.asarray(value / count) for name, value in total.items()}
