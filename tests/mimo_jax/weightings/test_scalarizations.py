"""Weights are the gradients of scalarizations, computed by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax.weightings import of_losses as of

# name -> (rule for these losses, its scalarization)
SCALARIZATIONS = {
  'geometric_mean': lambda _: (
    weightings.geometric_mean(),
    of.geometric_mean,
  ),
  'stch': lambda losses: (
    weightings.stch(),
    lambda x: of.smooth_tchebycheff(x, 1.0, of.even(losses), 0.0),
  ),
  'sharp stch': lambda losses: (
    weightings.stch(0.02, of.uneven(losses), of.ideal_of(losses)),
    lambda x: of.smooth_tchebycheff(
      x, 0.02, of.uneven(losses), of.ideal_of(losses)
    ),
  ),
  'cosmos': lambda losses: (
    weightings.cosmos(),
    lambda x: of.cosine_penalised(x, 1.0, of.even(losses)),
  ),
  'uneven cosmos': lambda losses: (
    weightings.cosmos(3.5, of.uneven(losses)),
    lambda x: of.cosine_penalised(x, 3.5, of.uneven(losses)),
  ),
  'pbi': lambda losses: (
    weightings.pbi(),
    lambda x: of.boundary_intersection(x, 5.0, of.even(losses), 0.0),
  ),
  'uneven pbi': lambda losses: (
    weightings.pbi(0.7, of.uneven(losses), of.ideal_of(losses)),
    lambda x: of.boundary_intersection(
      x, 0.7, of.uneven(losses), of.ideal_of(losses)
    ),
  ),
  'uw': lambda losses: (
    weightings.uw(init=of.uneven(losses) - 0.4),
    lambda x: of.uncertainty(x, of.uneven(losses) - 0.4),
  ),
  'imtl_l': lambda losses: (
    weightings.imtl_l(init=of.uneven(losses) - 0.4),
    lambda x: of.impartial(x, of.uneven(losses) - 0.4),
  ),
  'famo': lambda losses: (
    weightings.famo(),
    lambda x: of.log_sum(x, of.even(losses), 0.0),
  ),
  'famo with minima': lambda losses: (
    weightings.famo(minima=of.ideal_of(losses) - 0.06),
    lambda x: of.log_sum(x, of.even(losses), of.ideal_of(losses) - 0.06),
  ),
}


@pytest.mark.parametrize(
  'samples',
  [('five',), checks.slow(('one', 'uneven', 'many'))],
  ids=['five', 'others'],
)
@pytest.mark.parametrize('name', SCALARIZATIONS)
def test_weights_are_the_gradient_of_the_scalarization(name, samples, x64):
  for sample in samples:
    losses = of.SAMPLES[sample]
    rule, scalar = SCALARIZATIONS[name](losses)
    if 'pbi' in name and len(losses) == 1:
      expected = [1.0]  # on the ray, where the root has no derivative
    else:
      nudges = losses + 1e-200j * np.eye(len(losses))
      expected = [scalar(nudge).imag / 1e-200 for nudge in nudges]
    np.testing.assert_allclose(
      of.weigh(rule, losses, after=losses),
      expected,
      rtol=1e-11 if x64 else 1e-4,
      atol=(1e-13 if x64 else 3e-5) * np.max(np.abs(expected)),
      err_msg=sample,
    )


# Name in the reference -> rule.
LIBRARY = {
  'GeometricMean': lambda _: weightings.geometric_mean(),
  'STCH(mu=1,weights=uniform)': lambda _: weightings.stch(1.0),
  'STCH(mu=0.1,weights=uniform)': lambda _: weightings.stch(0.1),
  'STCH(mu=0.01,weights=pref,reference=0.01)': lambda preference: (
    weightings.stch(0.01, preference, 0.01)
  ),
  'UW(log_var=0)': lambda _: weightings.uw(),
  'UW(log_var=linspace(-1,1))': lambda preference: weightings.uw(
    init=np.linspace(-1, 1, len(preference))
  ),
  'IMTLL(log_scale=linspace(-0.5,0.5))': lambda preference: weightings.imtl_l(
    init=np.linspace(-0.5, 0.5, len(preference))
  ),
  'COSMOS(lambda=1,weights=pref)': lambda preference: weightings.cosmos(
    1.0, preference
  ),
  'COSMOS(lambda=8,weights=pref)': lambda preference: weightings.cosmos(
    8.0, preference
  ),
  'PBI(theta=5,weights=pref)': lambda preference: weightings.pbi(
    5.0, preference
  ),
  'PBI(theta=0.5,weights=pref,reference=0.01)': lambda preference: (
    weightings.pbi(0.5, preference, 0.01)
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', LIBRARY)
def test_weights_are_those_of_the_reference(name, x64):
  @jax.jit
  def weigh(losses, preference):
    rule = LIBRARY[name](preference)
    state = rule.init(len(losses))
    return rule.update(mimo_jax.Observation(losses), state)[0]

  for case in of.REFERENCE['scalarizations'].values():
    assert set(case['weights']) == set(LIBRARY)
    if case['weights'][name] is None:  # not finite there; finite here, below
      assert name == 'GeometricMean'
      assert min(case['losses']) <= 0
      continue
    np.testing.assert_allclose(
      weigh(jnp.array(case['losses']), jnp.array(case['preference'])),
      case['weights'][name],
      rtol=1e-10 if x64 else 2e-4,
      # The reference adds 1e-12 in the root of PBI.
      atol=1e-10 if x64 else 2e-5,
    )
