"""Rules that see gradients: several steps, and many objectives."""

import jax
import numpy as np
import pytest

from tests import jacobians
from tests.mimo_jax.weightings import of_gradients as of

# TorchJD's name -> ours, which of its parameters is which of ours, what its
# input is for us, and the tolerance in float64.
SEQUENCES = {
  # TorchJD adds 1e-8 to denominators.
  'GradVac(K=2,beta=0.5)': ('gradvac', {'beta': 'beta'}, of.gramian, 1e-7),
  # Its Frank-Wolfe stops early: compared with our exact minimiser.
  'CRMOGM(MGDA,alpha=0.9)': ('cr_mogm', {'decay': 'alpha'}, of.gramian, 1e-3),
  'MoDo': (
    'modo',
    {'step_size': 'gamma', 'regularization': 'rho'},
    of.cross,
    1e-10,
  ),
  # TorchJD adds 1e-8 to the scale.
  'SDMGrad': (
    'sdmgrad',
    {
      'step_size': 'lr',
      'momentum': 'momentum',
      'num_steps': 'n_iter',
      'regularization': 'lambda_',
    },
    of.cross,
    1e-8,
  ),
  # TorchJD adds 1e-7 to sums of squares.
  'ExcessMTL_warmup2': (
    'excess_mtl',
    {'step_size': 'robust_step_size', 'num_warmup_steps': 'n_warmup_steps'},
    lambda rows: of.observe(rows, jacobian=True),
    1e-4,
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SEQUENCES)
def test_rules_follow_the_sequences_of_torchjd(name, x64):
  ours, arguments, seen, wide = SEQUENCES[name]
  params = of.TORCHJD[name]['params']
  rule = of.make(
    ours, **{key: params[value] for key, value in arguments.items()}
  )
  steps = of.TORCHJD[name]['steps']
  state = of.init(rule, len(steps[0]['weights']), 6)
  rtol = of.tolerance(x64, wide, max(wide, 1e-4))
  for step in steps:
    weights, state = of.update(rule, seen(step['input']), state)
    np.testing.assert_allclose(weights, step['weights'], rtol=rtol, atol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize('name', of.RULES)
def test_sixty_four_objectives_of_any_scale_have_finite_weights(name):
  rule = of.make(name)
  generic = jacobians.generic(64, 70)
  awkward = np.repeat(generic, 2, axis=0)[:64]
  awkward[5], awkward[9], awkward[11] = 0, -3 * awkward[0], 1e-4 * awkward[1]
  state, cosines = of.init(rule, 64, 70), of.cross_gramian(64)
  losses = jacobians.losses_of(generic)
  for scale in (1e-12, 1.0, 1e12):
    for rows in (generic, awkward, 0 * generic):
      observation = of.observe(scale * rows, losses, jacobian=True)._replace(
        cross_gramian=jax.device_put(scale**2 * cosines)
      )
      weights, state = of.update(rule, observation, state)
      for leaf in jax.tree.leaves(weights):
        assert np.all(np.isfinite(leaf)), scale
