"""OGM and OGM-GE: coefficients, the tensors they reach, and the noise.

`reference/multimodal.json` says where its numbers come from.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import nn
from tests import checks
from tests import reference

REFERENCE = reference.read('multimodal')
# Not in alphabetical order.
MODALITIES = ('visual', 'audio')
SHAPES = {
  'audio': {'filters': (3, 3, 1, 2), 'kernel': (5, 4), 'bias': (4,)},
  'head': {'kernel': (5, 4)},
  'visual': {'filters': (3, 3, 1, 2), 'kernel': (7, 2), 'scale': ()},
}
GRADIENTS = {
  name: {
    part: jnp.asarray((1 + i) * checks.standard_normal(*shape, seed=7 * i + j))
    for j, (part, shape) in enumerate(shapes.items())
  }
  for i, (name, shapes) in enumerate(SHAPES.items())
}
SCORES = {'audio': jnp.float32(0.6), 'visual': jnp.float32(0.25)}
EITHER = {'ogm': mimo_jax.ogm, 'ogm_ge': mimo_jax.ogm_ge}


def first_key(path):
  return None if path[0] == 'head' else path[0]


def modulate(gradients=GRADIENTS, scores=SCORES, factory='ogm', **options):
  """Returns the first update, and the state after it."""
  options = {'encoder_of': first_key, 'modalities': MODALITIES} | options
  modulation = EITHER[factory](**options)
  return modulation.update(gradients, modulation.init(gradients), scores=scores)


def coefficients(cases):
  """Returns k of the modalities for each pair of scores and options."""

  @jax.jit
  def found():
    found = []
    for scores, options in cases:
      names = tuple(f'modality {i}' for i in range(len(scores)))
      updates, state = modulate(
        {name: jnp.ones((1, 1)) for name in names},
        dict(zip(names, scores, strict=True)),
        encoder_of=lambda path: path[0],
        modalities=names,
        **options,
      )
      found.append(([updates[name] for name in names], state.coefficients))
    return found

  for applied, kept in found():
    np.testing.assert_array_equal(np.ravel(applied), kept)
    yield kept.tolist()


# Coefficients.


def test_coefficients_are_those_of_the_authors_formula_on_recorded_logits(x64):
  rtol = 1e-9 if x64 else 3e-6

  @jax.jit
  def found():
    found = []
    for case in REFERENCE['ogm']:
      names = tuple(case['scores'])
      logits = REFERENCE['logits'][str(len(names))]
      logits = {name: jnp.asarray(logits[name]) for name in names}
      scores = nn.true_class_scores(logits, jnp.asarray(REFERENCE['labels']))
      gradients = {name: jnp.ones((2, 1)) for name in names}
      _, state = modulate(
        gradients, scores, modalities=names, alpha=case['alpha']
      )
      found.append((scores, state.coefficients))
    return found

  for case, (scores, coefficients) in zip(
    REFERENCE['ogm'], found(), strict=True
  ):
    names = tuple(case['scores'])
    np.testing.assert_allclose(
      [6 * scores[name] for name in names],  # sums over six samples
      list(case['scores'].values()),
      rtol=rtol,
    )
    np.testing.assert_allclose(
      coefficients, list(case['coefficients'].values()), rtol=rtol
    )


def test_coefficients_by_hand():
  recorded = REFERENCE['ogm_weakest']
  just_ahead = float(np.nextafter(np.float32(0.4), np.float32(1)))
  three = np.array([0.5, 0.8, 0.2])
  means = [(0.5 / 0.8 + 0.5 / 0.2) / 2, (0.8 / 0.5 + 0.8 / 0.2) / 2]
  weakest = {'alpha': 0.3, 'against': 'weakest'}
  cases = (
    (
      'another library',  # which has 1e-5 in denominators, the smallest 0.06
      list(recorded['scores'].values()),
      weakest | {'alpha': recorded['alpha']},
      list(recorded['coefficients'].values()),
    ),
    ('two', [0.6, 0.25], {'alpha': 0.1}, [1 - np.tanh(0.1 * 0.6 / 0.25), 1]),
    ('weakest', [0.6, 0.25], weakest, [1 - np.tanh(0.3 * 0.6 / 0.25), 1]),
    (
      'three',
      three,
      {'alpha': 0.3},
      [*(1 - np.tanh(0.3 * np.array(means))), 1],
    ),
    ('factor', 64 * three, {}, [*(1 - np.tanh(0.3 * np.array(means))), 1]),
    ('weakest of 3', three, weakest, [*(1 - np.tanh(1.5 * three[:2])), 1]),
    ('just ahead', [just_ahead, 0.4], {'alpha': 0.5}, [1 - np.tanh(0.5), 1]),
    ('almost zero', [0.4, 1e-9], {}, [0, 1]),
  )
  found = coefficients([case[1:3] for case in cases])
  for (name, *_, expected), actual in zip(cases, found, strict=True):
    rtol = 2e-3 if name == 'another library' else 1e-5
    np.testing.assert_allclose(actual, expected, rtol, 1e-6, err_msg=name)


def test_scores_of_zero_and_equal_scores():
  cases = [
    ([0.4, 0.0], {}, [0, 1]),
    ([0.4, 0.0, 0.0], {}, [0, 1, 1]),
    # With an alpha of zero nothing is modulated, whatever the ratio.
    ([0.4, 0.0], {'alpha': 0.0}, [1, 1]),
    *(
      ([score] * count, {'against': against}, [1] * count)
      for against in ('each', 'weakest')
      for count in (2, 3, 7)
      for score in (0.0, 0.3)
    ),
  ]
  found = coefficients([case[:2] for case in cases])
  for case, actual in zip(cases, found, strict=True):
    assert actual == case[2], case
  with jax.debug_nans(True):
    for against in ('each', 'weakest'):
      modulate(scores={'audio': 0.0, 'visual': 0.0}, against=against)


# Modulated tensors.


def test_encoders_are_multiplied_and_the_rest_is_unchanged():
  k = 1 - np.tanh(0.3 * 0.6 / 0.25)
  updates, state = modulate(alpha=0.3)
  np.testing.assert_allclose(state.coefficients, [1, k], rtol=1e-5)
  assert state.key is None
  factors = {'filters': k, 'kernel': k, 'bias': 1}
  slowed = {
    part: factors[part] * leaf for part, leaf in GRADIENTS['audio'].items()
  }
  checks.assert_close(updates, GRADIENTS | {'audio': slowed})
  for name in ('head', 'visual'):
    checks.assert_equal(updates[name], GRADIENTS[name])
  # The layout of the parameters does not matter.
  owners = 3 * ['audio'] + [None] + 3 * ['visual']
  backwards, _ = modulate(
    jax.tree.leaves(GRADIENTS)[::-1],
    encoder_of=lambda path: owners[::-1][int(path[0])],
  )
  checks.assert_equal(backwards[::-1], jax.tree.leaves(updates))


def test_tensors_of_fewer_axes_are_unchanged():
  parts_by = {
    1: {'filters', 'kernel', 'bias'},
    2: {'filters', 'kernel'},
    4: {'filters'},
  }
  for factory, scores, owners in (
    ('ogm', SCORES, ('audio',)),
    ('ogm', {'audio': 0.2, 'visual': 0.3}, ('visual',)),
    ('ogm_ge', SCORES, MODALITIES),  # noise, whoever is slowed
  ):

    @jax.jit
    def updates_by(scores, factory=factory):
      return {
        min_ndim: modulate(GRADIENTS, scores, factory, min_ndim=min_ndim)[0]
        for min_ndim in parts_by
      }

    for min_ndim, updates in updates_by(scores).items():
      parts = parts_by[min_ndim]
      changed = {
        (name, part)
        for name in GRADIENTS
        for part, leaf in updates[name].items()
        if np.any(leaf != GRADIENTS[name][part])
      }
      assert changed == {
        (name, part) for name in owners for part in parts & set(GRADIENTS[name])
      }


# Noise.


def test_noise_has_the_deviation_of_the_unmodulated_gradient():
  gradients = {
    'audio': jnp.asarray(3.0 + 2.0 * checks.standard_normal(200, 100)),
    'visual': jnp.asarray(np.random.RandomState(1).uniform(size=(100, 300))),
  }
  for noise in (1.0, 0.5):
    updates, state = modulate(gradients, factory='ogm_ge', noise=noise)
    for name, k in zip(MODALITIES, state.coefficients, strict=True):
      xi = np.ravel(updates[name] - k * gradients[name])
      deviation = noise * np.std(gradients[name], ddof=1)
      # The deviation of n normal numbers, within five standard errors.
      error = 5 / np.sqrt(xi.size)
      np.testing.assert_allclose(np.std(xi), deviation, rtol=error)
      assert abs(np.mean(xi)) < error * deviation
      np.testing.assert_allclose(
        np.mean(xi**4) / deviation**4, 3, rtol=5 * error
      )


@pytest.mark.slow
def test_noise_of_small_and_zero_tensors():
  # For two entries, dividing by n - 1 gives a deviation √2 times as large.
  pair = {name: jnp.array([[1.0, 3.0]]) for name in MODALITIES}

  def draw(seed):
    updates, _ = modulate(pair, factory='ogm_ge', alpha=0.0, seed=seed)
    return updates['audio'] - pair['audio']

  draws = jax.jit(jax.vmap(draw))(jnp.arange(2000))
  np.testing.assert_allclose(np.std(draws), np.sqrt(2), rtol=0.06)
  zero = {name: jnp.zeros((50, 40)) for name in MODALITIES}
  updates, _ = modulate(zero, factory='ogm_ge')
  for leaf in jax.tree.leaves(updates):
    np.testing.assert_allclose(np.std(leaf), 1e-8, rtol=0.1)
  one = {name: jnp.full((1, 1), 2.0) for name in MODALITIES}
  updates, state = modulate(one, factory='ogm_ge')
  for name, k in zip(MODALITIES, state.coefficients, strict=True):
    np.testing.assert_allclose(updates[name], [[2 * k]], rtol=1e-6)


@pytest.mark.slow
def test_noise_depends_on_seed_tensor_and_step():
  gradients = {
    name: {part: jnp.float32([[0, 1], [2, 4]]) for part in 'ab'}
    for name in MODALITIES
  }
  modulation = mimo_jax.ogm_ge(first_key, MODALITIES, seed=3)
  state = modulation.init(gradients)
  noises = []
  for _ in range(2):
    updates, state = modulation.update(
      gradients, state, scores={'audio': 1.0, 'visual': 1.0}
    )
    noises += [
      leaf - gradients['audio']['a'] for leaf in jax.tree.leaves(updates)
    ]
  assert np.unique(np.stack(noises)).size == 32
  first, again, other = (
    modulate(factory='ogm_ge', seed=seed)[0] for seed in (5, 5, 6)
  )
  checks.assert_equal(first, again)
  kernels = first['audio']['kernel'], other['audio']['kernel']
  assert np.all(kernels[0] != kernels[1])
  without, _ = modulate(factory='ogm_ge', noise=0.0)
  checks.assert_close(without, modulate()[0])


# Training.


@pytest.mark.slow
def test_vmap_over_seeds_and_alphas_is_the_loop():
  kernels = {name: GRADIENTS[name]['kernel'] for name in MODALITIES}

  def update(seed, alpha):
    return modulate(kernels, factory='ogm_ge', seed=seed, alpha=alpha)[0]

  seeds, alphas = jnp.array([3, 4]), jnp.array([0.1, 0.9])
  together, alone = jax.jit(jax.vmap(update))(seeds, alphas), jax.jit(update)
  for i in range(2):
    checks.assert_close(checks.at(together, i), alone(seeds[i], alphas[i]))


@pytest.mark.slow
def test_a_window_of_steps_can_be_composed():
  modulation = optax.conditionally_transform(
    mimo_jax.ogm(first_key, MODALITIES), lambda step: step == 1
  )
  state = modulation.init(GRADIENTS)
  for expected in (GRADIENTS, modulate()[0], GRADIENTS):
    updates, state = modulation.update(GRADIENTS, state, scores=SCORES)
    checks.assert_close(updates, expected)


@pytest.mark.slow
def test_bfloat16_gradients_have_bfloat16_updates():
  narrow = checks.as_type(GRADIENTS, jnp.bfloat16)
  for factory in EITHER:
    updates, state = modulate(narrow, factory=factory)
    expected, _ = modulate(checks.as_type(narrow, jnp.float32), factory=factory)
    assert state.coefficients.dtype == jnp.float32
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(updates))
    checks.assert_close(updates, expected, 1e-2, 1e-2, factory)


def test_a_score_that_is_not_finite_skips_the_step_and_keeps_the_state():
  for factory, make in EITHER.items():
    optimizer = optax.chain(
      make(first_key, MODALITIES), optax.apply_if_finite(optax.sgd(1.0), 5)
    )
    update = jax.jit(optimizer.update)
    _, good = update(
      GRADIENTS, optimizer.init(GRADIENTS), GRADIENTS, scores=SCORES
    )
    fresh = optimizer.init(GRADIENTS)
    assert checks.types_of(good) == checks.types_of(fresh), factory
    for value in (np.nan, np.inf):
      scores = SCORES | {'visual': jnp.float32(value)}
      updates, state = update(GRADIENTS, good, GRADIENTS, scores=scores)
      assert not np.any(checks.flat(updates)), (factory, value)
      assert state[1].total_notfinite == 1
      checks.assert_equal(state[0].coefficients, good[0].coefficients)
      if factory == 'ogm_ge':
        assert np.any(
          jax.random.key_data(state[0].key) != jax.random.key_data(good[0].key)
        )


# Wrong arguments.


def test_wrong_arguments_are_refused():
  for factory in EITHER:
    for message, given in {
      'expected a function from the keys': {'encoder_of': 'audio'},
      'at least two unique names': {'modalities': ('audio',)},
      'alpha=-0.1; expected a number': {'alpha': -0.1},
      "against='all'; expected.*'each'": {'against': 'all'},
      'min_ndim=-1; expected': {'min_ndim': -1},
      "is 'head'; expected one of": {'encoder_of': lambda path: path[0]},
      'none of the parameters .*audio/bias': {'encoder_of': nn.encoder_of},
      r"encoder_of finds no tensor.*encoders of \['text'\]": {
        'modalities': ('audio', 'visual', 'text')
      },
      r'min_ndim=5 axes or more.*Lower': {'min_ndim': 5},
      'scores=None; expected a mapping': {'scores': None},
      r"scores of \['audio', 'fused'\], without those of \['visual'\]": {
        'scores': {'audio': 0.5, 'fused': 0.7}
      },
      r"scores\['audio'\] of shape \(4,\); expected a scalar": {
        'scores': SCORES | {'audio': jnp.ones(4)}
      },
    }.items():
      with pytest.raises(ValueError, match=f'{factory}.*{message}'):
        modulate(factory=factory, **given)
  for message, given in {
    'noise=-1.0; expected a number at least 0': {'noise': -1.0},
    'seed=0.5; expected a whole number': {'seed': 0.5},
  }.items():
    with pytest.raises(ValueError, match=message):
      modulate(factory='ogm_ge', **given)
