"""ReconBoost: whose turn it is, what it learns from, and what is frozen."""

import jax
import numpy as np
import optax
import pytest

from experiments.configs import handwritten
from experiments.core import training
from experiments.methods import reconboost
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import hand
from tests.experiments.methods import recorded

NAMES = ('audio', 'text', 'visual')
GENERATOR = np.random.default_rng(5)
FEATURES = {
  name: GENERATOR.normal(0.4, 1 + i, (6, 3)) for i, name in enumerate(NAMES)
}


# Phases of 5 steps.
METHOD = reconboost.make(
  recorded.make_task(FEATURES, lambda: nn.MLP((4,))),
  residual=2.0,
  agreement=0.5,
  epochs=0.5,
)


def begin():
  """A state whose factor differs from its initial value."""
  state, batch = recorded.begin(METHOD, FEATURES)
  state.params['fusion']['scale'] = np.float32(1.7)
  return state, batch


def at(state, stage, phase=1):
  return recorded.at_step(state, 10 * stage + 5 * (phase - 1) + 2)


def logits_of(params):
  """Computes the logits of each modality, [M, batch, C], by hand."""
  found = []
  shared = params['fusion']
  for name in NAMES:
    hidden = FEATURES[name]
    for layer in (params[f'encoders_{name}'], shared['hidden']):
      hidden = np.maximum(recorded.dense(layer['Dense_0'], hidden), 0)
    found.append(recorded.dense(shared['head'], hidden))
  return np.array(found)


@pytest.mark.quick
def test_a_modality_learns_from_the_errors_of_the_others():
  state, batch = begin()
  params = jax.tree.map(np.float64, state.params)
  logits = logits_of(params)
  p = recorded.softmax(logits)
  for stage in range(5):
    turn, before = stage % 3, (stage - 1) % 3
    losses, seen, gradients = recorded.learn(METHOD, at(state, stage), batch)
    others = [i for i in range(3) if i != turn and i <= stage]
    rest = 1.7 * sum(logits[i] for i in others)
    sure = recorded.own(recorded.softmax(rest)) if others else 1
    own = -np.log(recorded.own(p[turn]))
    expected = np.mean((5.0 - 2.0 * sure) * own) / 4
    np.testing.assert_allclose(losses['boosting'], expected, rtol=1e-5)
    apart = np.mean((p[turn] - p[before]) ** 2) if stage else 0
    np.testing.assert_allclose(losses['agreement'], 0.5 * apart, rtol=1e-4)
    fused = recorded.cross_entropy(1.7 * logits[: stage + 1].sum(0))
    np.testing.assert_allclose(losses['fused'], fused, rtol=1e-5)
    # Its encoder and head learn; the others and the factor do not.
    for loss in ('boosting', 'agreement') if stage else ('boosting',):
      for i, name in enumerate(NAMES):
        touched = recorded.learns(gradients[loss][f'encoders_{name}'])
        assert touched == (i == turn), (stage, loss, name)
      assert recorded.learns(gradients[loss]['fusion']['head'])
      assert gradients[loss]['fusion']['scale'] == 0
    stands = {name: bool(one) for name, one in seen.observed['still'].items()}
    expected = {name: i != turn for i, name in enumerate(NAMES)}
    assert stands == expected | {'scale': True}


@pytest.mark.quick
def test_the_agreement_loss_has_a_gradient_through_the_own_output():
  state, batch = begin()
  _, _, gradients = recorded.learn(METHOD, at(state, 1), batch)
  params = jax.tree.map(np.float64, state.params)
  p = recorded.softmax(logits_of(params))

  def apart(shift):
    kernel = params['encoders_text']['Dense_0']['kernel']
    moved = dict(params)
    moved['encoders_text'] = {
      'Dense_0': params['encoders_text']['Dense_0'] | {'kernel': kernel + shift}
    }
    own = recorded.softmax(logits_of(moved))[1]
    return 0.5 * np.mean((own - p[0]) ** 2)

  way = GENERATOR.normal(size=(3, 4))
  found = gradients['agreement']['encoders_text']['Dense_0']['kernel']
  recorded.assert_slope(
    np.sum(found * way), lambda by: apart(by * way), least=1e-5
  )


@pytest.mark.quick
def test_after_a_phase_all_learners_so_far_learn_from_the_fused_loss():
  state, batch = begin()
  for stage in (0, 1, 4):
    there = at(state, stage, phase=2)
    _, seen, gradients = recorded.learn(METHOD, there, batch)
    update, _ = recorded.update_of(METHOD, there, batch)
    checks.assert_close(update, gradients['fused'])
    assert update['fusion']['scale'] != 0
    stands = {name: bool(one) for name, one in seen.observed['still'].items()}
    expected = {name: i > stage for i, name in enumerate(NAMES)}
    assert stands == expected | {'scale': False}
    for i, name in enumerate(NAMES):
      assert recorded.learns(update[f'encoders_{name}']) == (i <= stage)


def test_frozen_parts_do_not_move_and_each_phase_resets_moments():
  adamw = {'name': 'adamw', 'learning_rate': 0.01, 'weight_decay': 0.1}
  run = hand.train('reconboost', optimizer=adamw, epochs=1.0)
  weights = run.metrics['weights']
  np.testing.assert_array_equal(weights['boosting'], [[1, 1, 1, 0, 0]] * 2)
  np.testing.assert_array_equal(weights['fused'], [[0, 0, 0, 1, 1]] * 2)
  for name in hand.NAMES:
    before, after = (
      checks.flat(one.params[f'encoders_{name}'])
      for one in (run.start, run.after)
    )
    assert np.all(before != after) == (name == 'fou')


def test_a_phase_begins_without_moments_and_schedules_continue():
  config = handwritten.get_config('two,reconboost,smoke')
  rate = {'name': 'linear_schedule', 'init_value': 0.01, 'end_value': 0.0}
  rate['transition_steps'] = 9
  config.optimizer = {'name': 'adam', 'learning_rate': rate}
  experiment = training.make(config, 15)
  # Two modalities have five turns of two phases.
  assert experiment.rehearsal.every_epochs * 15 == config.steps / 20
  batch = {'label': np.arange(6), 'fou': np.ones((6, 76), np.float32)}
  batch['pix'] = np.ones((6, 240), np.float32)
  key, variables = jax.random.key(0), recorded.drawn(experiment.fresh, batch)
  state = recorded.compiled(experiment.begin)(variables, key, batch)
  after, _ = recorded.compiled(experiment.train_step)(state, batch)
  begun = experiment.rehearsal.end(after, ())
  (adam, new), (schedule, goes_on) = (
    [
      checks.flat(
        [it for _, it in optax.tree.get_all_with_path(one.opt_state, name)]
      )
      for one in (after, begun)
    ]
    for name in ('ScaleByAdamState', 'ScaleByScheduleState')
  )
  assert np.any(adam)
  assert not np.any(new)
  assert np.all(schedule == 1)
  assert np.all(goes_on == 1)
