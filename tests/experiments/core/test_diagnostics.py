"""Diagnostics of gradients, which are logged on request."""

import jax
import numpy as np
import pytest
from jax import flatten_util

from experiments.core import training
from tests import running
from tests.running import smoke


def of_rule(name, diagnostics, **changes):
  """Makes the experiment of a rule, and a batch."""
  config = smoke(diagnostics=diagnostics, **changes)
  with config.unlocked():
    config.weighting = {'name': name}
    del config.model.encoders['pix']
  experiment = training.make(config, 15)
  return experiment, running.batches_of(config, 3, 1)[0]


def gradients_of(experiment, state, batch):
  """Computes gradients [K, D] of each output's mean cross-entropy."""

  def loss(params, name):
    logits = experiment.model.apply({'params': params}, batch)[name]
    log_shares = jax.nn.log_softmax(logits)
    return -jax.numpy.mean(
      log_shares[np.arange(len(batch['label'])), batch['label']]
    )

  gradient_of = jax.jit(jax.grad(loss), static_argnums=1)
  return np.array(
    [
      flatten_util.ravel_pytree(gradient_of(state.params, name))[0]
      for name in ('fused', 'fou')
    ],
    np.float64,
  )


@pytest.mark.parametrize(
  ('rule', 'told'), [('mgda', 'free'), ('sum', 'always')]
)
def test_diagnostics_equal_those_computed_by_numpy(rule, told):
  experiment, batch = of_rule(rule, told)
  state = jax.jit(experiment.init)(jax.random.key(7), batch)
  gradients = gradients_of(experiment, state, batch)
  _, metrics = jax.jit(experiment.train_step)(state, batch)
  weights = [metrics['weights'][name] for name in ('fused', 'fou')]
  direction = np.array(weights, np.float64) @ gradients
  lengths = np.linalg.norm(gradients, axis=1)
  assert (
    abs(lengths[0] / lengths[1] - 1) > 0.01
  )  # different, so that a mix-up shows
  cosine = gradients[0] @ gradients[1] / np.prod(lengths)
  along = gradients @ direction / lengths / np.linalg.norm(direction)
  assert metrics.keys() == {
    *('losses', 'weights', 'lengths', 'cosines'),
    *('conflicting', 'direction_cosines'),
  }
  for name, expected in (('lengths', lengths), ('direction_cosines', along)):
    found = [metrics[name][objective] for objective in ('fused', 'fou')]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
  np.testing.assert_allclose(metrics['cosines']['fused/fou'], cosine, rtol=1e-4)
  assert float(metrics['conflicting']) == float(cosine < 0)


def test_without_diagnostics_programs_are_the_same():
  programs = {}
  for told in ('none', 'free'):
    for rule in ('mgda', 'sum'):
      experiment, batch = of_rule(rule, told)
      state = jax.eval_shape(experiment.init, jax.random.key(7), batch)
      program = jax.make_jaxpr(experiment.train_step)(state, batch)
      programs[rule, told] = str(program)
  assert smoke().diagnostics == 'none'
  # For a rule that sees only losses, nothing is free.
  assert programs['sum', 'free'] == programs['sum', 'none']
  assert programs['mgda', 'free'] != programs['mgda', 'none']


def test_impossible_diagnostics_are_refused():
  with pytest.raises(ValueError, match=r"'all'; expected one of .*'always'"):
    training.make(smoke(diagnostics='all'), 15)


@pytest.mark.slow
def test_conflicts_are_logged_stored_and_plotted(logged):
  (row,) = running.train_rows(logged / 'alone').values()
  assert row['cosines'].keys() == {'fused/fou', 'fused/pix', 'fou/pix'}
  negative = sum(cosine < 0 for cosine in row['cosines'].values())
  np.testing.assert_allclose(row['conflicting'], negative / 3, rtol=1e-6)
  (events,) = (logged / 'alone' / 'tensorboard').iterdir()
  assert b'train/cosines/fou/pix' in events.read_bytes()
  with np.load(logged / 'compare' / 'curves.npz') as curves:
    assert curves['conflicting/aligned'].shape == (1, 10)
    np.testing.assert_allclose(
      curves['conflicting/aligned'][0, 9], row['conflicting'], rtol=1e-6
    )
    assert np.all(np.isnan(curves['conflicting/joint']))
  report = (logged / 'compare' / 'report.md').read_text()
  assert 'pairs of objectives whose gradients conflict' in report
