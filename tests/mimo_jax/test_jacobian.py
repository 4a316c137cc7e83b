"""The Jacobian compared with plain autodiff, and its cost."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from tests import checks

Losses = collections.namedtuple('Losses', ['fused', 'text', 'audio'])
NAMES = Losses._fields

PARAMS = {
  'fusion': jnp.array([[0.3, -1.2], [0.8, 0.1], [2.0, -0.4]]),
  'encoders': [jnp.array([0.5, -0.2, 1.1, 0.9]), jnp.float32(1.7)],
}


def each_loss(params, scale=1.0, shift=0.0):
  """Three losses; the last ignores some params, as in late fusion."""
  audio, text = params['encoders']
  fused = jnp.sum(jnp.sin(params['fusion']) ** 2) * jnp.sum(audio**2) + text
  return [
    scale * fused + shift * text,
    scale * jnp.cos(text) * text + jnp.sum(audio[:2] ** 3),
    scale * jnp.sum(jnp.exp(0.3 * audio)),
  ]


def named(losses):
  return dict(zip(NAMES, losses, strict=True))


FORMS = {
  'mapping': named,
  'named tuple': lambda losses: Losses(*losses),
  'list': list,
  'tuple': tuple,
  'vector': jnp.stack,
}


# The Jacobian.


def test_jacobian_has_the_form_and_the_values_of_jacrev():
  @jax.jit
  def results_of(params):
    results = {}
    for form, make in FORMS.items():

      def losses_fn(params, make=make):
        return make(each_loss(params))

      losses, pullback = jax.vjp(losses_fn, params)
      results[form] = (
        (losses, jax.jacrev(losses_fn)(params)),
        mimo_jax.value_and_jacobian(losses_fn)(params),
        (losses, mimo_jax.pull_jacobian(pullback, losses)),
      )
    return results

  for form, (expected, *results) in results_of(PARAMS).items():
    for result in results:
      checks.assert_close(result, expected, name=form)
      assert checks.types_of(result) == checks.types_of(expected), form


def test_rows_are_the_gradients_of_each_loss_with_args_and_aux():
  def my_losses(params, scale, *, shift):
    losses = named(each_loss(params, scale, shift))
    return losses, {'seen': params['encoders'][1] * 2, 'n': 3}

  function = mimo_jax.value_and_jacobian(my_losses, has_aux=True)
  assert function.__name__ == 'my_losses'
  (losses, aux), jacobian = function(PARAMS, 3.0, shift=0.25)
  assert aux['n'] == 3
  np.testing.assert_allclose(aux['seen'], 3.4)
  checks.assert_close(losses, my_losses(PARAMS, 3.0, shift=0.25)[0])
  expected = {
    name: jax.grad(lambda p, i=i: each_loss(p, 3.0, 0.25)[i])(PARAMS)
    for i, name in enumerate(NAMES)
  }
  checks.assert_close(jacobian, expected)


def test_losses_of_different_types_have_gradients_in_the_params_type():
  def losses_fn(params):
    return {
      'fused': jnp.sum(params**2).astype(jnp.bfloat16),
      'audio': jnp.sum(params.astype(jnp.float32) ** 3),
    }

  params = jnp.array([1.5, -0.25, 2.0], jnp.bfloat16)
  _, jacobian = mimo_jax.value_and_jacobian(losses_fn)(params)
  assert jacobian['fused'].dtype == jacobian['audio'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    jacobian['fused'].astype(np.float32), [3.0, -0.5, 4.0]
  )


@pytest.mark.slow
def test_recurrent_losses_have_the_rows_of_separate_gradients():
  """One loss may use all steps of a scan whose cotangents others leave zero."""

  def losses_fn(params):
    def step(carry, x):
      carry = jnp.tanh(params['slow'] * carry + x)
      return carry, carry

    last, steps = jax.lax.scan(step, jnp.ones(3), jnp.arange(6.0).reshape(2, 3))
    return {
      'all': jnp.sum(steps * jnp.arange(1.0, 7.0).reshape(2, 3)),
      'last': jnp.sum(last**2),
      'other': jnp.sum(params['fast'] ** 3),
    }

  def rows_of(params):
    return mimo_jax.value_and_jacobian(losses_fn)(params)[1]

  @jax.jit
  def expected_of(params):
    return {
      name: jax.grad(lambda p, name=name: losses_fn(p)[name])(params)
      for name in ('all', 'last', 'other')
    }

  params = {
    'slow': checks.standard_normal(2, 3),
    'fast': checks.standard_normal(2, 4, seed=1),
  }
  together = jax.vmap(rows_of)(params)
  for i, wrap in enumerate((lambda f: f, jax.jit)):
    one = checks.at(params, i)
    expected = expected_of(one)
    checks.assert_close(wrap(rows_of)(one), expected)
    checks.assert_close(checks.at(together, i), expected)


# The cost, as a count of operations.


def late_fusion_losses(params, batch):
  """Three encoders, a head for each, and a fusion of their features."""
  features = {}
  for name, layers in params['encoders'].items():
    hidden = batch[name]
    for layer in layers:
      hidden = jax.nn.relu(hidden @ layer)
    features[name] = hidden
  logits = {
    name: hidden @ params['heads'][name] for name, hidden in features.items()
  }
  together = jnp.concatenate([features[name] for name in sorted(features)], 1)
  logits['fused'] = together @ params['fusion']
  return {
    name: -jnp.mean(jax.nn.log_softmax(value)[:, 2])
    for name, value in logits.items()
  }


@pytest.mark.slow
def test_late_fusion_costs_what_its_sparsity_allows():
  inputs = {'audio': 96, 'text': 120, 'visual': 144}
  params = {
    'encoders': {
      name: [jnp.full([width, 128], 0.1), jnp.full([128, 128], 0.02)]
      for name, width in inputs.items()
    },
    'heads': {name: jnp.full([128, 7], 0.3) for name in inputs},
    'fusion': jnp.full([3 * 128, 7], 0.2),
  }
  batch = {name: jnp.full([64, width], 0.5) for name, width in inputs.items()}

  def flops(function):
    compiled = jax.jit(function).lower(params, batch).compile()
    return compiled.cost_analysis()['flops']

  def pulled_back(weighting, params, batch):
    return checks.first_step(
      mimo_jax.balance(weighting),
      lambda params: late_fusion_losses(params, batch),
      params,
    )

  joint = flops(
    jax.value_and_grad(lambda p, b: late_fusion_losses(p, b)['fused'])
  )
  spent = flops(mimo_jax.value_and_jacobian(late_fusion_losses))
  assert joint < spent <= 1.8 * joint
  spent = flops(functools.partial(pulled_back, mimo_jax.weightings.mgda()))
  # The K(K+1)/2 = 10 inner products of K = 4 gradients come on top.
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert spent - 2 * 10 * count <= 1.8 * joint
  spent = flops(functools.partial(pulled_back, mimo_jax.mimo()))
  assert spent <= 1.1 * joint
