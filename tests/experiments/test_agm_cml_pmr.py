"""AGM, PMR and CML: their formulas, and as compared methods.

`reference/agm_cml_pmr.json` says where its numbers come from.
"""

import itertools

import chex
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import training
from experiments.methods import agm
from experiments.methods import base
from experiments.methods import cml
from experiments.methods import pmr
from mimo_jax import nn
from mimo_jax import weightings
from tests import reference

REFERENCE = reference.read('agm_cml_pmr')
LABELS = np.array(REFERENCE['labels'])
FEATURES = {
  name: np.array(value) for name, value in REFERENCE['features'].items()
}
KERNEL = np.array(REFERENCE['W']).T
BIAS = np.array(REFERENCE['b'])
GENERATOR = np.random.default_rng(0)
# A third modality, between the others in alphabetical order.
THREE = {
  'audio': FEATURES['audio'],
  'text': GENERATOR.standard_normal((6, 3)),
  'visual': FEATURES['visual'],
}
THREE_KERNEL = np.concatenate(
  [KERNEL[:5], GENERATOR.standard_normal((3, 4)), KERNEL[5:]]
)
NAMES = ('agm', 'cml', 'pmr')


class Scaled(flax.linen.Module):
  """An encoder that is the identity until it learns."""

  @flax.linen.compact
  def __call__(self, inputs):
    return inputs * self.param('scale', flax.linen.initializers.ones, (1, 1))


def make_task(features=FEATURES, **changes):
  """A linear layer on features that are the inputs."""
  model = nn.LateFusion(
    encoders={name: Scaled() for name in features}, num_classes=4
  )
  task = base.Task(
    model=model,
    losses_of=nn.cross_entropy_losses,
    target='label',
    weighting=weightings.sum(),
    optimizer=lambda _: optax.sgd(1.0),
    steps_per_epoch=10,
  )
  return task._replace(**changes)


def make_state(method, features=FEATURES, kernel=KERNEL):
  """The reference's batch, and the state of its linear layer."""
  batch = {name: jnp.float32(value) for name, value in features.items()}
  batch['label'] = jnp.asarray(LABELS)
  params = jax.jit(method.model.init)(jax.random.key(0), batch)['params']
  dense = {'kernel': jnp.float32(kernel), 'bias': jnp.float32(BIAS)}
  params['fusion'] = {'Dense_0': dense}
  state = base.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state={},
    opt_state=(),
    memory=(),
    key=jax.random.key(1),
  )
  return method.init(state, batch), batch


def losses_of(method, state, batch):
  return method.losses(state, batch, jax.random.key(2), None)


def softmax(logits):
  exponents = np.exp(logits - logits.max(-1, keepdims=True))
  return exponents / exponents.sum(-1, keepdims=True)


def own(probabilities):
  """Those of the true classes."""
  return probabilities[np.arange(len(LABELS)), LABELS]


def logits_of(features, kernel, removed=()):
  """Of the linear layer, with zeros for what is removed."""
  kept = [
    value * (name not in removed) for name, value in sorted(features.items())
  ]
  return np.concatenate(kept, axis=1) @ kernel + BIAS


# AGM.


def test_agm_coefficients_are_those_of_the_authors_formula():
  recorded = REFERENCE['agm']
  names = ('visual', 'audio', 'text')
  for step in recorded['steps']:
    found = agm.coefficients(
      jnp.array([step['scores'][name] for name in names]),
      jnp.array([step['running'][name] for name in names]),
      recorded['alpha'],
    )
    expected = [step['coefficients'][name] for name in names]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_agm_coefficients_of_two_modalities_compare_with_the_other():
  scores, running = np.array([0.4, 1.7]), np.array([0.9, 0.2])
  found = agm.coefficients(jnp.array(scores), jnp.array(running), 0.7)
  strength = np.exp(scores[::-1] - scores)
  before = np.exp(running[::-1] - running)
  np.testing.assert_allclose(found, np.exp(0.7 * (before - strength)), 1e-5)


def test_agm_leaves_equal_modalities_alone_and_caps_the_others():
  for count in (2, 3, 5):
    np.testing.assert_array_equal(
      agm.coefficients(jnp.full(count, 0.3), jnp.full(count, 2.0), 1.5), 1
    )
  # τ is exp(±20), r is e and 1/e.
  apart = agm.coefficients(jnp.array([0.0, 1.0]), jnp.array([0.0, 20.0]), 0.1)
  np.testing.assert_allclose(apart[0], np.exp(0.1 * 10), rtol=1e-6)
  np.testing.assert_allclose(apart[1], np.exp(-0.1 / np.e), rtol=1e-5)


def test_agm_scales_what_flows_into_each_modalitys_part_of_the_logits():
  alpha, running = 0.8, np.array([1.3, 0.5])
  method = agm.make(make_task(), alpha=alpha)
  state, batch = make_state(method)
  state = state._replace(
    memory=agm.RunningScores(jnp.float32(running), jnp.int32(3))
  )

  @jax.jit
  def gradient(params):
    def fused(params):
      losses, seen = losses_of(method, state._replace(params=params), batch)
      return losses['fused'], seen.memory

    return jax.value_and_grad(fused, has_aux=True)(params)

  (loss, memory), found = gradient(state.params)
  probabilities = softmax(logits_of(FEATURES, KERNEL))
  np.testing.assert_allclose(loss, -np.log(own(probabilities)).mean(), 1e-5)

  scores = np.array(
    [
      -np.log(own(softmax(np.array(REFERENCE['mono_outputs'][name])))).mean()
      for name in ('audio', 'visual')
    ]
  )
  np.testing.assert_allclose(memory.mean, (3 * running + scores) / 4, 1e-5)
  assert memory.steps == 4

  factors = np.exp(
    alpha * (np.exp(running[::-1] - running) - np.exp(scores[::-1] - scores))
  )
  assert abs(factors - 1).min() > 0.1
  residual = (probabilities - np.eye(4)[LABELS]) / 6
  for i, name in enumerate(('audio', 'visual')):
    rows = slice(5 * i, 5 * i + 5)
    into_features = factors[i] * residual @ KERNEL[rows].T
    np.testing.assert_allclose(
      found[f'encoders_{name}']['scale'],
      np.sum(into_features * FEATURES[name], keepdims=True),
      rtol=1e-4,
    )
    np.testing.assert_allclose(
      found['fusion']['Dense_0']['kernel'][rows],
      factors[i] * FEATURES[name].T @ residual,
      rtol=1e-4,
      atol=1e-6,
    )


# PMR.


def test_pmr_is_the_authors_loss_on_recorded_prototypes():
  recorded = REFERENCE['pmr']
  method = pmr.make(make_task(), alpha=recorded['alpha'])
  state, batch = make_state(method)
  centers = {
    name: jnp.float32(value) for name, value in REFERENCE['prototypes'].items()
  }
  for name in ('audio', 'visual'):
    loss, score = pmr.prototype_loss(
      batch[name], centers[name], jnp.ones(4, bool), batch['label']
    )
    np.testing.assert_allclose(loss, recorded['proto_losses'][name], 1e-5)
    np.testing.assert_allclose(6 * score, recorded['proto_scores'][name], 1e-5)

  memory = pmr.Prototypes(centers, jnp.ones(4, bool))

  @jax.jit
  def gradient(params):
    def extra(params):
      losses, _ = losses_of(
        method, state._replace(params=params, memory=memory), batch
      )
      return losses['prototypes'], losses['fused']

    return jax.value_and_grad(extra, has_aux=True)(params)

  (extra, fused), found = gradient(state.params)
  np.testing.assert_allclose(extra + fused, recorded['total_loss'], 1e-5)
  # Only the slow encoder has a gradient of it.
  assert found['encoders_audio']['scale'] != 0
  found['encoders_audio'] = found['encoders_visual']
  chex.assert_trees_all_equal(found, jax.tree.map(jnp.zeros_like, found))


@pytest.mark.parametrize('slow', [0, 1])
def test_pmr_coefficients_of_two_modalities(slow):
  alpha = 0.7
  for ratio in (1.0, 1.3, 4.0):
    scores = jnp.array([0.6, 0.6]).at[slow].divide(ratio)
    switch = pmr.coefficients(scores, alpha, 'switch')
    clipped = pmr.coefficients(scores, alpha, 'clipped')
    assert switch[1 - slow] == clipped[1 - slow] == 0
    np.testing.assert_allclose(switch[slow], alpha * (ratio > 1), 1e-6)
    np.testing.assert_allclose(
      clipped[slow], alpha * np.clip(ratio - 1, 0, 1), rtol=1e-5, atol=1e-6
    )


def test_pmr_prototypes_are_means_of_what_was_seen_and_the_old_ones():
  method = pmr.make(make_task(), momentum=0.3)
  state, batch = make_state(method)
  (walk,) = method.rehearsal.passes

  def rehearse(state, labels, scale):
    scratch = method.rehearsal.begin(state, batch)
    for rows in (slice(0, 4), slice(4, 6)):
      part = {name: scale * batch[name][rows] for name in FEATURES}
      part['label'] = jnp.asarray(labels[rows])
      scratch = walk.step(state, scratch, part)
    return method.rehearsal.end(state, scratch)

  def mean(name, label, labels):
    return FEATURES[name][np.array(labels) == label].mean(0)

  first_labels, second_labels = [0, 1, 1, 1, 0, 0], [1, 2, 2, 1, 1, 2]
  first = rehearse(state, first_labels, 1)
  second = rehearse(first, second_labels, 2)
  assert first.memory.seen.tolist() == [True, True, False, False]
  assert second.memory.seen.tolist() == [True, True, True, False]
  for name in FEATURES:
    for label in (0, 1):
      np.testing.assert_allclose(
        first.memory.centers[name][label],
        mean(name, label, first_labels),
        rtol=1e-5,
      )
    found = second.memory.centers[name]
    np.testing.assert_array_equal(found[0], first.memory.centers[name][0])
    np.testing.assert_allclose(
      found[1],
      0.7 * 2 * mean(name, 1, second_labels)
      + 0.3 * mean(name, 1, first_labels),
      rtol=1e-4,
      atol=1e-6,
    )
    np.testing.assert_allclose(
      found[2], 2 * mean(name, 2, second_labels), rtol=1e-5
    )


@pytest.mark.parametrize('seen', [[1, 1, 0, 1], [0, 0, 0, 0]])
def test_pmr_leaves_out_classes_without_a_prototype(seen):
  seen = np.array(seen, bool)
  centers = np.array(REFERENCE['prototypes']['audio'])
  centers[0] = FEATURES['audio'][0]  # at a distance of zero

  (loss, score), gradient = jax.value_and_grad(
    lambda features: pmr.prototype_loss(
      features, jnp.float32(centers), jnp.asarray(seen), jnp.asarray(LABELS)
    ),
    has_aux=True,
  )(jnp.float32(FEATURES['audio']))
  chex.assert_tree_all_finite((loss, gradient))
  if not seen.any():
    assert loss == score == 0
    return
  rows = seen[LABELS]
  distances = np.linalg.norm(FEATURES['audio'][:, None] - centers, axis=-1)
  logits = np.where(seen, -distances, -np.inf)
  probabilities = own(softmax(logits))[rows]
  np.testing.assert_allclose(loss, -np.log(probabilities).mean(), rtol=1e-5)
  np.testing.assert_allclose(score, probabilities.mean(), rtol=1e-5)
  assert np.array_equal(np.any(gradient != 0, axis=1), rows)


# CML.


def removal(method, features=FEATURES, kernel=KERNEL, steps=60):
  """The losses of many steps from the same parameters, each [steps]."""
  state, batch = make_state(method, features, kernel)
  return jax.jit(
    jax.vmap(
      lambda step: losses_of(method, state._replace(step=step), batch)[0]
    )
  )(jnp.arange(steps))


@pytest.mark.parametrize('hinge', ['batch', 'sample'])
def test_cml_is_the_recorded_loss_where_visual_is_removed(hinge):
  recorded = REFERENCE['cml']
  method = cml.make(make_task(), strength=recorded['lam'], hinge=hinge)
  losses = removal(method)
  state, batch = make_state(method)

  @jax.jit
  def weigh(params):
    losses, pullback = jax.vjp(
      lambda params: losses_of(method, state._replace(params=params), batch)[0],
      params,
    )
    _, after = method.gradients.update(
      pullback, method.gradients.init(params), params, losses=losses
    )
    return optax.tree.get(after, 'weights')

  weights = dict(zip(method.objectives, weigh(state.params), strict=True))
  assert weights['audio'] == weights['visual'] == 1  # heads that are read only
  total = sum(
    weights[name] * losses[name] for name in ('fused', 'partial', 'rise')
  )
  expected = {
    'batch': recorded['loss_as_coded'],
    'sample': recorded['loss_per_sample_hinge'],
  }[hinge]
  found = np.isclose(total, expected, rtol=1e-5)
  assert 0.2 < found.mean() < 0.8
  # In the other steps audio was removed.
  partial = softmax(logits_of(FEATURES, KERNEL, ('audio',)))
  np.testing.assert_allclose(
    losses['partial'][~found], -np.log(own(partial)).mean() / 2, rtol=1e-5
  )


@pytest.mark.parametrize('hinge', ['sample', 'batch'])
def test_cml_removes_three_modalities_in_every_order(hinge):
  method = cml.make(make_task(THREE), strength=0.5, hinge=hinge)
  losses = removal(method, THREE, THREE_KERNEL)
  found = np.stack([losses['partial'], losses['rise']], axis=1)
  expected = []
  for first, second in itertools.permutations(THREE, 2):
    before = softmax(logits_of(THREE, THREE_KERNEL))
    partial = rise = 0.0
    for removed in ((first,), (first, second)):
      after = softmax(logits_of(THREE, THREE_KERNEL, removed))
      partial -= np.log(own(after)).mean() / 3
      gained = after.max(1) - before.max(1)
      rise += (
        np.maximum(gained, 0).sum()
        if hinge == 'sample'
        else np.maximum(gained.sum(), 0)
      )
      before = after
    expected.append((partial, 0.5 * rise))
  is_order = np.isclose(found[:, None], expected, rtol=1e-4, atol=1e-6).all(-1)
  assert np.all(is_order.sum(1) == 1)
  assert np.all(is_order.sum(0) > 0)


# Together.


def test_unknown_options_are_refused():
  with pytest.raises(ValueError, match="rule='paper'; expected 'switch'"):
    pmr.make(make_task(), rule='paper')
  with pytest.raises(ValueError, match="hinge='row'; expected 'sample'"):
    cml.make(make_task(), hinge='row')


@pytest.mark.parametrize('name', NAMES)
def test_two_seeds_on_three_modalities(name):
  config = configuration.with_recipe(
    handwritten.get_config('three,smoke'), name
  )
  experiment = training.make(config, 15)
  assert (experiment.rehearsal is not None) == (name == 'pmr')

  def run(key, batches):
    """What a comparison does, in one program."""
    first = {key: leaf[0] for key, leaf in batches.items()}
    start = state = experiment.init(key, first)
    logits = experiment.model.apply(state.variables, first)
    if experiment.rehearsal is not None:
      (walk,) = experiment.rehearsal.passes
      scratch = experiment.rehearsal.begin(state, first)
      state = experiment.rehearsal.end(state, walk.step(state, scratch, first))
    rehearsed = state
    state, metrics = jax.lax.scan(experiment.train_step, state, batches)
    return start, rehearsed, state, metrics, logits

  widths = {'fou': 76, 'mor': 6, 'pix': 240}
  batches = {
    view: np.float32(GENERATOR.standard_normal((2, 3, 32, width)))
    for view, width in widths.items()
  }
  batches['label'] = GENERATOR.integers(0, 10, (2, 3, 32))
  keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
  program = jax.jit(
    jax.vmap(run),
    # Compiled in a third of the time, for a few steps.
    compiler_options={'xla_backend_optimization_level': 0},
  )
  start, rehearsed, state, metrics, logits = program(keys, batches)
  chex.assert_trees_all_equal_shapes_and_dtypes(start, rehearsed, state)
  chex.assert_tree_all_finite((state.params, metrics))
  # The curve of an output is its cross entropy.
  for output in experiment.objectives:
    probabilities = np.take_along_axis(
      softmax(np.array(logits[output])), batches['label'][:, 0, :, None], -1
    )
    np.testing.assert_allclose(
      metrics['losses'][output][:, 0],
      -np.log(probabilities).mean((1, 2)),
      rtol=1e-4,
    )
  if name == 'agm':
    assert state.memory.steps.tolist() == [3, 3]
    assert np.ptp(state.memory.mean, axis=1).min() > 0
  if name == 'pmr':
    assert rehearsed.memory.seen.sum() > 10
    chex.assert_trees_all_equal(rehearsed.memory, state.memory)
    assert np.all(metrics['losses']['prototypes'] > 0)
  if name == 'cml':
    assert np.all(metrics['losses']['partial'] > 0)
