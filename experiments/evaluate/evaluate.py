"""The evaluation protocol: full, missing and noisy inputs; contributions."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import tqdm

from experiments.evaluate import contribution
from experiments.evaluate import metrics as metrics_lib
from experiments.evaluate import readouts
from experiments.evaluate import units as units_lib
from mimo_jax import nn

# Noise is the same for every model and method: they face the same sensors.
_NOISE_SEED = 0

Array = npt.NDArray[Any]
Batch = Mapping[str, Any]
Outputs = dict[str, jax.Array]  # 'fused' and modalities -> [batch, C]


class Condition(NamedTuple):
  """What is done to the inputs before the model sees them."""

  present: jax.Array  # [modalities] bool, in the order of their sorted names
  noise: jax.Array  # [] float32, the level


Predict = Callable[[Any, Batch, Condition, Any], Outputs]
# A condition on the host: the modalities that are present, the level of noise.
_Case = tuple[frozenset[str], float]


def model_inputs(batch: Batch, modalities: Sequence[str]) -> dict[str, Any]:
  """The part of a batch that a model sees.

  It has the modalities, lengths of sequences, and which rows have a modality.

  Raises:
    ValueError: if a modality is absent.
  """
  if absent := sorted(set(modalities) - batch.keys()):
    raise ValueError(f'A batch lacks {absent}; it has {sorted(batch.keys())}.')
  beside = [
    f'{name}_{kind}' for kind in ('length', 'present') for name in modalities
  ]
  return {k: batch[k] for k in (*modalities, *beside) if k in batch}


def make_predict(
  model: Any,
  noise_scale: Mapping[str, float],
  finish: Callable[[Batch], Batch] = lambda batch: batch,
  tells_missing: bool = False,
) -> Predict:
  """Makes the pure function from one batch and a condition to the outputs.

  After inputs are finished, noise is added: every feature of modality m gets
  level · scaleₘ · N(0, 1). In sequences with lengths, only the valid steps do.
  Integers, such as tokens, get none. Then the modalities that are not present
  are replaced by zeros, the mean of a standardised input; their lengths stay.
  The draws depend only on the batch's index and shape, the number of modalities
  and the modality, so that all models, methods, seeds and levels get the same.

  Args:
    model: has `encoders`, a mapping by modality, and `apply(variables, inputs)`
      that gives outputs in evaluation mode, as `mimo_jax.nn.LateFusion` does.
    noise_scale: modality -> standard deviation of noise of level 1, in the
      units of its finished input: 1 for standardised ones.
    finish: finishes the inputs on the device, as `data.finish` does.
    tells_missing: whether the model is told what is not present, by
      `<modality>_present`, because it has learned from such rows. If batches
      have such entries, it is always told.

  Returns:
    `predict(variables, batch, condition, index)` -> outputs. The batch has an
    array [batch, ...] per modality; sequences [batch, time, ...], padded on the
    right, may have `<modality>_length` [batch]. The condition is an argument,
    so that one compilation serves all. For several seeds at once:
    `jax.jit(jax.vmap(predict, in_axes=(0, 0, None, None)))`.

  Raises:
    ValueError: if a modality has no scale.
  """
  modalities = sorted(model.encoders)
  if without := sorted(set(modalities) - noise_scale.keys()):
    raise ValueError(
      f'noise_scale lacks {without}: expected {modalities}, given'
      f' {sorted(noise_scale)}.'
    )

  def predict(
    variables: Any, batch: Batch, condition: Condition, index: Any
  ) -> Outputs:
    key = jax.random.fold_in(jax.random.key(_NOISE_SEED), index)
    keys = jax.random.split(key, len(modalities))
    inputs = dict(finish(model_inputs(batch, modalities)))

    def noisy(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
      found = {}
      for i, name in enumerate(modalities):
        value = values[name]
        if not jnp.issubdtype(value.dtype, jnp.floating):
          found[name] = value
          continue
        scale = (condition.noise * noise_scale[name]).astype(value.dtype)
        noise = scale * jax.random.normal(keys[i], value.shape, value.dtype)
        if (length := inputs.get(f'{name}_length')) is not None:
          noise = jnp.where(_is_valid(length, value), noise, 0)
        found[name] = value + noise
      return found

    values = {name: jnp.asarray(inputs[name]) for name in modalities}
    # Most conditions have no noise, and drawing it takes as long as the model.
    values = jax.lax.cond(
      condition.noise > 0, noisy, lambda values: values, values
    )
    for i, name in enumerate(modalities):
      value = values[name]
      inputs[name] = jnp.where(condition.present[i], value, 0)
      entry = f'{name}_present'
      if tells_missing or entry in inputs:
        here = inputs.get(entry, jnp.ones(value.shape[:1], bool))
        inputs[entry] = jnp.asarray(here) & condition.present[i]
    outputs: Outputs = model.apply(variables, inputs)
    return outputs

  return predict


def evaluate(
  predict: Predict,
  variables: Any,
  batches: Iterable[Batch],
  *,
  modalities: Iterable[str],
  metrics: Sequence[str],
  noise_levels: Sequence[float] = (),
  thorough: bool,
  target: str = 'label',
  units: units_lib.Units = units_lib.PLAIN,
) -> dict[str, npt.NDArray[np.float64]]:
  """Evaluates a model on all batches of a split, under all conditions.

  It takes one pass over the batches. On each batch the model runs once or, if
  thorough, 2^M + L times: with each subset of the M modalities present, and
  with each of the L noise levels above 0. Only outputs and targets are kept,
  and metrics are computed over those of all batches.

  Args:
    predict: compiled `make_predict`, or one vmapped over seeds, where every
      leaf of variables and batches has a leading axis [seeds].
    variables: the model's.
    batches: each with an array per modality, `mask` [batch] (bool, False for
      padding) and the target [batch], as
      `data_pipelines.loader.evaluation_batches` makes them. Rows where
      `<modality>_present` is False lack the modality. They are left out of the
      scores of its own output, which are NaN if no row is left, and it is left
      out of their `heads`.
    modalities: their names.
    metrics: names of functions in `evaluate.metrics`. The first is the primary
      one, by which conditions are compared. If it is an error, a Shapley value
      below 0 is a gain.
    noise_levels: at least 0; the clean inputs need not be among them.
    thorough: whether to run the model under other conditions, too.
    target: the name of the targets in the batches.
    units: those of the targets, in which metrics see outputs, too.

  Returns:
    Values [], or [seeds]: `<metric>/<output>` for every metric and output. The
    outputs are each modality's and the three of `readouts`: `fused`, `heads`
    and `all`. If thorough, the primary metric of the fused output, too:
      `missing/<modality>`: with all modalities but that one.
      `only/<modality>`: with that one alone.
      `shapley/<modality>`: its Shapley value over all sets of modalities.
      `noise/<level>`: at each level above 0.
      `relative_robustness`: mean over the range of levels, 0 included; absent
        without a level above 0.
      `imbalance/shapley`: mean difference of two modalities' Shapley values.
      `imbalance/<primary metric>`: the same for their own outputs, by that
        metric. Both are NaN for a single modality.
      `heads/...` and `all/...`: for these outputs `missing`, `noise` and
        `relative_robustness`, such as `heads/missing/<modality>`.

  Raises:
    ValueError: if a metric is unknown or none is given, a level is negative, a
      batch lacks a modality, one is named like a read-out, or there is no row
      (whose mask is True).
  """
  functions = {name: metrics_lib.get(name) for name in metrics}
  if not functions:
    raise ValueError('Expected the name of at least one metric, got none.')
  if min(noise_levels, default=0) < 0:
    raise ValueError(
      f'Expected noise levels of at least 0, got {list(noise_levels)}.'
    )
  names = sorted(modalities)
  readouts.check(names)
  everything = frozenset(names)
  conditions = [(everything, 0.0)]
  if thorough:
    levels = sorted({0.0, *map(float, noise_levels)})
    conditions += [(some, 0.0) for some in nn.coalitions(names)[:-1]]
    conditions += [(everything, level) for level in levels[1:]]
  # None: no bar where standard error is no terminal.
  bar = tqdm.tqdm(batches, desc='evaluate', leave=False, disable=None)
  outputs, targets, masks, present = run(
    predict, variables, bar, names, conditions, target, units
  )
  scores = []
  for rows in [masks] if masks.ndim == 1 else list(enumerate(masks)):
    take = operator.itemgetter(rows)
    (whole, *others), truths, there = jax.tree.map(
      take, (outputs, targets, present)
    )
    score = {
      f'{metric}/{output}': _of_rows(
        function, whole[output], truths, there.get(output)
      )
      for metric, function in functions.items()
      for output in sorted(whole)
    }
    if thorough:
      primary = functions[metrics[0]]
      for output in readouts.NAMES:
        found = [primary(one[output], truths) for one in (whole, *others)]
        compared = _comparisons(dict(zip(conditions, found, strict=True)))
        score |= compared if output == 'fused' else _told(output, compared)
      own = {name: score[f'{metrics[0]}/{name}'] for name in names}
      score[f'imbalance/{metrics[0]}'] = contribution.imbalance_degree(own)
    scores.append(score)
  return {
    name: np.array([score[name] for score in scores]).reshape(masks.shape[:-1])
    for name in scores[0]
  }


def run(
  predict: Predict,
  variables: Any,
  batches: Iterable[Batch],
  modalities: Sequence[str],
  conditions: Sequence[_Case],
  target: str,
  units: units_lib.Units,
) -> tuple[list[dict[str, Array]], Array, Array, dict[str, Array]]:
  """Outputs under each condition, targets, masks and present, of all batches.

  There are all outputs under the first condition, and the read-outs under the
  others. Targets are None if batches have none.
  """
  data = []
  for some, level in conditions:
    present = jnp.array([name in some for name in modalities])
    data.append(Condition(present, jnp.float32(level)))
  parts: list[Any] = []
  for index, batch in enumerate(batches):
    # Moved to the device once, not once per condition.
    inputs = jax.device_put(model_inputs(batch, modalities))
    outputs, targets = jax.device_get(
      (
        [predict(variables, inputs, condition, index) for condition in data],
        batch.get(target),
      )
    )
    mask = np.asarray(batch['mask'], bool)
    there = {  # of each seed, repeated for each variant
      name: np.resize(np.asarray(batch[f'{name}_present'], bool), mask.shape)
      for name in modalities
      if f'{name}_present' in batch
    }
    read = [
      readouts.of_outputs(one, some, there)
      for one, (some, _) in zip(outputs, conditions, strict=True)
    ]
    read[0] = outputs[0] | read[0]
    parts.append(([units.read(one) for one in read], targets, mask, there))
  if not parts:
    raise ValueError('Expected at least one batch, got none.')
  axis = np.ndim(parts[0][2]) - 1  # of rows, behind that of seeds
  return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis), *parts)


def _of_rows(
  metric: Callable[[Array, Array], float],
  outputs: Array,
  truths: Array,
  rows: Array | None,
) -> float:
  """A metric over all rows, or over some; NaN over none."""
  if rows is None:
    return metric(outputs, truths)
  return metric(outputs[rows], truths[rows]) if np.any(rows) else np.nan


def _comparisons(metric: Mapping[_Case, float]) -> dict[str, float]:
  """The scores that follow from an output's metric under all conditions."""
  values = {some: metric[some, level] for some, level in metric if not level}
  all_ = max(values, key=len)
  names = sorted(all_)
  scores = {f'missing/{name}': values[all_ - {name}] for name in names}
  scores |= {f'only/{name}': values[frozenset({name})] for name in names}
  shapley = nn.shapley_values(values)
  scores |= {f'shapley/{name}': shapley[name] for name in names}
  curve = {level: metric[some, level] for some, level in metric if some == all_}
  scores |= {f'noise/{level:g}': curve[level] for level in curve if level}
  if len(curve) > 1:
    scores['relative_robustness'] = contribution.relative_robustness(curve)
  scores['imbalance/shapley'] = contribution.imbalance_degree(shapley)
  return scores


def _told(output: str, compared: Mapping[str, float]) -> dict[str, float]:
  """What is reported of an output besides the fused one."""
  topics = ('missing', 'noise', 'relative_robustness')
  return {
    f'{output}/{name}': value
    for name, value in compared.items()
    if name.split('/')[0] in topics
  }


def _is_valid(length: jax.Array, value: jax.Array) -> jax.Array:
  """Which steps of [batch, time, ...] are valid, [batch, time, 1, ...]."""
  steps = jnp.arange(value.shape[1])
  is_valid = steps[None] < jnp.asarray(length)[:, None]
  return is_valid.reshape(is_valid.shape + (1,) * (value.ndim - 2))
