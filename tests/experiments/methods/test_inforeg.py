"""InfoReg: when a modality is regularised, how much, and towards what."""

import jax
import numpy as np
import optax
import pytest

from experiments.methods import inforeg
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick
SPE, K, BETA = 3, 0.2, 0.9
NAMES = ('encoders_a', 'encoders_b')
PARAMS = {
  'encoders_a': np.full((2, 3), 0.5, np.float32),
  'encoders_b': np.full((4,), -0.25, np.float32),
  'fusion': np.ones(2, np.float32),
}


def rule(**options):
  return inforeg.regulated(('a', 'b'), SPE, K, BETA, **options)


init, update = map(recorded.compiled, rule())


def simulate(sizes, scores, *, one_window=False):
  """Runs steps of given gradient sizes [epochs, 2], by hand and by the code.

  Returns:
    In which epochs an encoder is held back.
  """
  step_of = recorded.compiled(rule(one_window=True).update)
  step_of = step_of if one_window else update
  params, state = PARAMS, init(PARAMS)
  traces, held = [], set()
  found = {k: np.float32(v) for k, v in zip('ab', scores, strict=True)}
  generator = np.random.default_rng(0)
  for epoch, of_epoch in enumerate(sizes):
    start, squares = params, np.zeros(2)
    for step in range(SPE):
      gradient = {
        name: np.float32(generator.standard_normal(leaf.shape))
        for name, leaf in params.items()
      }
      expected = dict(gradient)
      for i, name in enumerate(NAMES):
        size = of_epoch[i] * (1 + step)
        gradient[name] = np.float32(size) * np.sign(gradient[name])
        squares[i] += size**2 / SPE
        lead, of = scores[i] - scores[1 - i], 0 if one_window else i
        is_open = epoch > 1 and (
          traces[-1][of] - traces[-2][of] > K * traces[-1][of]
        )
        pull = np.exp(BETA * np.tanh(lead)) if is_open and lead > 0 else 0.0
        held |= {(epoch, name)} if pull else set()
        moved = params[name] - start[name]
        expected[name] = gradient[name] + pull * moved
      updates, state = step_of(gradient, state, params, scores=found)
      checks.assert_close(updates, expected, rtol=1e-4)
      if step == 0:  # nothing is pulled at an epoch's start
        checks.assert_equal(updates, gradient)
      params = jax.tree.map(np.add, params, updates)
    traces.append(squares)
  return held


def test_the_leading_modality_is_regularised_while_its_trace_grows():
  # The trace of a grows in epochs 1 and 3, so a is held in 2 and 4.
  sizes = [(1.0, 1.0), (2.0, 1.0), (2.05, 1.0), (4.0, 1.0), (4.0, 1.0)]
  held = simulate(sizes, (0.6, 0.2))
  assert held == {(2, 'encoders_a'), (4, 'encoders_a')}
  # A modality that is behind, or level, is not regularised.
  assert simulate(sizes, (0.2, 0.6)) == set()
  # Unless the window of a is that of b, too, as in the authors' code.
  held = simulate(sizes, (0.2, 0.6), one_window=True)
  assert held == {(2, 'encoders_b'), (4, 'encoders_b')}
  assert simulate(sizes, (0.4, 0.4)) == set()


def test_the_advantage_is_over_the_modalities_that_are_behind():
  advantages = recorded.compiled(inforeg.advantages)
  scores = np.array([0.1, 0.4, 0.2, 0.4])
  expected = [0, (0.3 + 0.2) / 2, 0.1, (0.3 + 0.2) / 2]
  np.testing.assert_allclose(advantages(scores), expected, rtol=1e-6)
  assert advantages(np.array([0.3])).tolist() == [0]


def test_encoders_are_held_near_their_past_if_epochs_have_a_single_step():
  task = recorded.make_task()._replace(steps=500, steps_per_epoch=1)
  method, state, batch = recorded.begun(inforeg, task)
  for step, is_kept in ((9, True), (10, False), (11, True)):
    opt_state = optax.tree.set(state.opt_state, step=np.int32(step))
    anchors = optax.tree.get(opt_state, 'anchors')
    far = jax.tree.map(lambda leaf: leaf + 1, anchors)
    opt_state = optax.tree.set(opt_state, anchors=far)
    _, after = recorded.update_of(
      method, state._replace(opt_state=opt_state), batch
    )
    checks.assert_equal(
      optax.tree.get(after, 'anchors'), far if is_kept else anchors
    )


def test_a_step_that_is_not_finite_does_not_change_the_state():
  bad = jax.tree.map(lambda leaf: leaf * np.nan, PARAMS)
  scores = {'a': np.float32(0.5), 'b': np.float32(0.1)}
  _, state = update(bad, init(PARAMS), PARAMS, scores=scores)
  assert state.running.tolist() == [0, 0]
  assert state.step == 1
