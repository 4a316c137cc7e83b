"""Types: loss scaling, strict promotion, derivatives of weights."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import mimo_jax
from mimo_jax import nn
from mimo_jax import weightings
from tests import checks

pytestmark = pytest.mark.slow


_SCALE = 256.0
_NAMES = ('fused', 'audio', 'visual')
_WIDE = (jnp.float64, jnp.float32)


def _losses_of(params):
  return {
    'fused': (params['p'] + 0.2 - 2) ** 2,
    'audio': (params['p'] - 1) ** 2,
    'visual': (params['p'] - 0.8) ** 2,
    'constant': jnp.float32(3.0),
  }


def _scaled(params, names):
  losses = _losses_of(params)
  scaled = {
    name: losses[name] * losses[name].dtype.type(_SCALE) for name in names
  }
  return scaled, {name: losses[name].astype(jnp.float32) for name in names}


@pytest.mark.parametrize(
  ('rule', 'dtype', 'form'),  # all pairs
  [
    ('mimo', jnp.float16, 'mapping'),
    ('mimo', jnp.bfloat16, 'vector'),
    ('mgda', jnp.float16, 'vector'),
    ('mgda', jnp.bfloat16, 'mapping'),
  ],
)
def test_unscaled_losses_may_come_with_the_pullback_of_scaled_ones(
  rule, dtype, form
):
  params = {'p': jnp.asarray(0.5, dtype)}
  names = (*_NAMES, 'constant') if form == 'mapping' else _NAMES

  def scaled(params):
    losses, aux = _scaled(params, names)
    if form == 'vector':
      return tuple(jnp.stack(list(each.values())) for each in (losses, aux))
    return losses, aux

  optimizer = mimo_jax.balance(getattr(weightings, rule)(), objectives=names)

  @jax.jit
  def updated(params):
    _, pullback, losses = jax.vjp(scaled, params, has_aux=True)
    return optimizer.update(
      pullback, optimizer.init(params), params, losses=losses
    )

  @jax.jit
  def exactly(params):
    losses, pullback = jax.vjp(lambda p: _scaled(p, names)[1], params)
    return optimizer.update(
      pullback, optimizer.init(params), params, losses=losses
    )

  updates, state = updated(params)
  assert updates['p'].dtype == dtype

  expected, exact = exactly({'p': jnp.float32(params['p'])})
  tolerance = 4 * float(jnp.finfo(dtype).eps)
  np.testing.assert_allclose(
    state.weights, exact.weights, rtol=0, atol=4 * tolerance
  )
  np.testing.assert_allclose(
    np.float32(updates['p']) / _SCALE, expected['p'], rtol=4 * tolerance
  )


@pytest.mark.parametrize('name', weightings.__all__)
def test_rules_work_under_strict_promotion_of_types(name):
  """All inputs have one type; steps and counts are the rule's own.

  With x64, however, states are float64 whatever the type of the params.
  """
  rule = getattr(weightings, name)()
  rules = [rule]
  if name in ('mimo', 'famo', 'mgda', 'moco', 'graddrop', 'modo'):
    # One rule of each kind suffices for wrappers.
    rules.append(mimo_jax.normalized(rule))
    if name != 'modo':  # which sees two batches
      rules += [mimo_jax.unit_gradients(rule), mimo_jax.diagnosed(rule)]

  def losses_fn(params):
    return {
      'fused': jnp.sum((params - 1) ** 2),
      'audio': jnp.sum((params + 2) ** 2),
      'visual': jnp.sum(3 * params[:2]),
    }

  for rule, x64, dtype in (
    *((rule, False, jnp.float32) for rule in rules),
    *((rule, True, dtype) for rule in rules for dtype in _WIDE),
  ):
    optimizer = mimo_jax.balance(rule, objectives=_NAMES)
    with jax.numpy_dtype_promotion('strict'), jax.enable_x64(x64):
      step = functools.partial(checks.first_step, optimizer, losses_fn)
      updates, _ = jax.eval_shape(step, jnp.arange(4, dtype=dtype))
    assert (updates.shape, updates.dtype) == ((4,), dtype)


@pytest.mark.parametrize('x64', [False, True])
def test_the_rest_works_under_strict_promotion_of_types(x64):
  """Models, losses with masks, and the functions beside rules."""
  widths = {'audio': 4, 'visual': 5}
  inputs = {k: np.ones((3, n), np.float32) for k, n in widths.items()}
  model = nn.LateFusion(
    encoders={name: nn.MLP((4,)) for name in inputs},
    num_classes=2,
    fusion=nn.CosineFusion,
    absent='token',
  )
  optimizer = optax.chain(
    mimo_jax.every(
      mimo_jax.balance(weightings.mgda(), objectives=_NAMES), steps=2
    ),
    mimo_jax.ogm(nn.encoder_of, ('audio', 'visual')),
  )

  def step(key, labels, inputs):
    rows = {'audio_present': jnp.array([True, False, True])} | inputs

    def losses_fn(params, cut):
      logits = model.apply({'params': params}, rows, cut=cut)
      losses = nn.cross_entropy_losses(logits, labels)
      return losses, nn.true_class_scores(logits, labels)

    params = model.init(key, rows)['params']
    losses, pullback, scores = mimo_jax.vjp_at_features(
      losses_fn, params, has_aux=True
    )
    present = {name: np.int32(3) for name in _NAMES}
    return optimizer.update(
      pullback,
      optimizer.init(params),
      params,
      losses=losses,
      scores=scores,
      present=present,
    )[0]

  def single(params, batch):
    balance = mimo_jax.balance(weightings.mgda())

    def losses_of(params):
      return jnp.sum((batch - params[None]) ** 2, axis=1)

    one = mimo_jax.vjp_of_examples(
      lambda params, row: jnp.sum((row - params) ** 2),
      params,
      batch,
      batch_size=2,
    )
    losses, pullback = jax.vjp(losses_of, params)
    other = losses, mimo_jax.two_passes(pullback)
    for losses, known in (one, other):
      balance.update(known, balance.init(params), params, losses=losses)

  whole = np.array([[-4, 1, 1], [6, 1, 1]])
  with jax.numpy_dtype_promotion('strict'), jax.enable_x64(x64):
    for labels in (np.zeros(3, np.uint8), np.zeros(3, np.int64)):
      jax.eval_shape(step, jax.random.key(0), labels, inputs)
    for dtype in (np.float32, jnp.bfloat16):
      jax.eval_shape(single, np.ones(2, dtype), np.ones((3, 2), dtype))
    combine = functools.partial(mimo_jax.combine_with, weightings.upgrad())
    combined = jax.jit(combine)(whole)
  np.testing.assert_allclose(combined, [0.2922, 1.901, 1.901], atol=1e-3)


@pytest.mark.parametrize('dtype', [bool, jnp.int32, jnp.float32])
def test_masks_of_any_type_work_under_strict_promotion(dtype):
  outputs = {
    'fused': np.array([[0.3, 2.0], [1.0, -1.0], [0.5, 0.1]], np.float32)
  }
  labels, mask = np.array([1, 0, -100], np.int32), np.array([1, 1, 0], dtype)
  kept = {'fused': outputs['fused'][:2]}
  with jax.numpy_dtype_promotion('strict'):
    for function, given, targets in (
      (nn.cross_entropy_losses, outputs, labels),
      (nn.true_class_scores, outputs, labels),
      (
        nn.absolute_error_losses,
        {'fused': outputs['fused'][:, :1]},
        np.array([1.0, 0.5, np.nan], np.float32),
      ),
    ):
      function = jax.jit(function)
      found = function(given, targets, mask)['fused']
      expected = function({'fused': given['fused'][:2]}, targets[:2])['fused']
      np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert float(nn.present_rows(kept, mask[:2])['fused']) == 2


def test_weights_have_derivatives_in_forward_mode():
  """By hand: min_norm of two orthogonal gradients of lengths 1 and x."""
  rule = weightings.mgda()

  def share(x):
    gramian = jnp.diag(jnp.stack([jnp.ones_like(x), x**2]))
    observation = mimo_jax.Observation(jnp.ones(2), gramian)
    return rule.update(observation, rule.init(2))[0][1]

  x = 0.7
  value, slope = jax.jit(lambda x: jax.jvp(share, (x,), (jnp.ones_like(x),)))(
    jnp.float32(x)
  )
  np.testing.assert_allclose(value, 1 / (1 + x**2), rtol=1e-6)
  np.testing.assert_allclose(slope, -2 * x / (1 + x**2) ** 2, rtol=1e-5)


def _total_weight(rows, name):
  rule = getattr(weightings, name)()
  gramian = rows @ rows.T
  observation = mimo_jax.Observation(
    losses=1 + jnp.sum(rows**2, axis=1),
    gramian=gramian,
    jacobian={'w': rows},
    cross_gramian=gramian,
    losses_after=1 + jnp.sum(rows, axis=1) ** 2,
  )
  weights, _ = rule.update(observation, rule.init(3, {'w': jnp.zeros(4)}))
  return sum(map(jnp.sum, jax.tree.leaves(weights)))


@functools.cache
def _without_reverse_mode():
  """Returns the rules that the README names as such."""
  page = pathlib.Path(weightings.__file__).with_name('README.md').read_text()
  listed = page.split('Rules with a solver (')[1].split(')')[0]
  rules = set(re.findall(r'`(\w+)`', listed))
  assert rules < set(weightings.__all__)
  return rules


@pytest.mark.parametrize('name', weightings.__all__)
def test_derivatives_of_weights_are_right_and_finite_at_degenerate_rows(name):
  with jax.enable_x64(True):
    plain, tangent = jnp.asarray(checks.standard_normal(2, 3, 4), float)
    zero = plain.at[1].set(0)
    rows = jnp.stack([plain, zero, plain.at[2].set(plain[1])])
    near = jnp.stack([plain + 1e-6 * tangent, plain - 1e-6 * tangent])
    total = functools.partial(_total_weight, name=name)
    values, slopes = jax.jit(
      jax.vmap(lambda x: jax.jvp(total, (x,), (tangent,)))
    )(jnp.concatenate([rows, near]))
    assert np.all(np.isfinite(slopes))
    numeric = (values[3] - values[4]) / 2e-6
    np.testing.assert_allclose(slopes[0], numeric, rtol=1e-4, atol=1e-6)
    in_reverse = jax.jit(jax.vmap(jax.grad(total)))
    if name in _without_reverse_mode():
      with pytest.raises(ValueError, match='Reverse-mode'):
        in_reverse(rows)
      return
    gradients = in_reverse(rows)
    assert np.all(np.isfinite(gradients))
    reverse = jnp.sum(gradients[0] * tangent)
    np.testing.assert_allclose(reverse, numeric, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', ['mimo', 'mgda'])
def test_a_derivative_may_take_the_weights_as_constants(name):
  """As the page of the rules says, in reverse mode also for solvers."""
  balance = mimo_jax.balance(
    getattr(weightings, name)(), objectives=('fused', 'one', 'two')
  )
  params = jnp.array([1.0, -2.0])

  def losses_of(params):
    one, two = params**2
    return {'fused': one + 3 * two, 'one': one, 'two': two - params[0]}

  def updated(scale):
    losses, pullback = jax.vjp(
      lambda p: jax.tree.map(lambda loss: scale * loss, losses_of(p)), params
    )
    update = functools.partial(
      balance.update, pullback, balance.init(params), params, losses=losses
    )
    weights = update()[1].weights
    return jnp.sum(update(weights=lax.stop_gradient(weights))[0]), weights

  slope, weights = jax.grad(updated, has_aux=True)(1.5)
  rows = np.array([[2.0, -12.0], [2.0, 0.0], [-1.0, -4.0]])
  np.testing.assert_allclose(slope, weights @ rows.sum(axis=1), rtol=1e-5)
