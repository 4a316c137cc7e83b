"""OGM and OGM-GE: coefficients, the tensors they reach, and the noise.

`reference/multimodal.json` says where its numbers come from.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import nn
from mimo_jax import weightings
from tests import reference

REFERENCE = reference.read('multimodal')
# Not in alphabetical order.
MODALITIES = ('visual', 'audio')
GENERATOR = np.random.default_rng(0)
GRADIENTS = {
  name: {
    part: jnp.float32((1 + i) * GENERATOR.standard_normal(shape))
    for part, shape in shapes.items()
  }
  for i, (name, shapes) in enumerate(
    {
      'audio': {'filters': (3, 3, 1, 2), 'kernel': (5, 4), 'bias': (4,)},
      'head': {'kernel': (5, 4)},
      'visual': {'filters': (3, 3, 1, 2), 'kernel': (7, 2), 'scale': ()},
    }.items()
  )
}
SCORES = {'audio': jnp.float32(0.6), 'visual': jnp.float32(0.25)}
EITHER = {'ogm': mimo_jax.ogm, 'ogm_ge': mimo_jax.ogm_ge}
either = pytest.mark.parametrize('factory', EITHER)


def first_key(path):
  return None if path[0] == 'head' else path[0]


def modulate(gradients=GRADIENTS, scores=SCORES, factory='ogm', **options):
  """The first update, and the state after it."""
  options = {'encoder_of': first_key, 'modalities': MODALITIES} | options
  modulation = EITHER[factory](**options)
  return modulation.update(gradients, modulation.init(gradients), scores=scores)


def coefficients(scores, **options):
  """The k of modalities with these scores, in their order."""
  names = tuple(f'modality {i}' for i in range(len(scores)))
  gradients = {name: jnp.ones((1, 1)) for name in names}
  updates, state = modulate(
    gradients,
    dict(zip(names, map(jnp.asarray, scores), strict=True)),
    encoder_of=lambda path: path[0],
    modalities=names,
    **options,
  )
  applied = [updates[name].item() for name in names]
  if np.all(np.isfinite(applied)):
    np.testing.assert_array_equal(applied, state.coefficients)
  return applied


# Coefficients.


@pytest.mark.parametrize('number', range(len(REFERENCE['ogm'])))
def test_coefficients_are_those_of_the_authors_formula_on_recorded_logits(
  number, x64
):
  case = REFERENCE['ogm'][number]
  names = tuple(case['scores'])
  logits = REFERENCE['logits'][str(len(names))]
  logits = {name: jnp.asarray(logits[name]) for name in names}
  scores = nn.true_class_scores(logits, jnp.asarray(REFERENCE['labels']))
  rtol = 1e-9 if x64 else 3e-6
  np.testing.assert_allclose(
    [6 * scores[name] for name in names],  # sums over six samples
    list(case['scores'].values()),
    rtol=rtol,
  )
  gradients = {name: jnp.ones((2, 1)) for name in names}
  _, state = modulate(gradients, scores, modalities=names, alpha=case['alpha'])
  np.testing.assert_allclose(
    state.coefficients, list(case['coefficients'].values()), rtol=rtol
  )


def test_against_the_weakest_is_what_another_library_computes():
  case = REFERENCE['ogm_weakest']
  found = coefficients(
    list(case['scores'].values()), alpha=case['alpha'], against='weakest'
  )
  # Theirs has 1e-5 in the denominators, of which the smallest is 0.06.
  np.testing.assert_allclose(
    found, list(case['coefficients'].values()), rtol=2e-3
  )


@pytest.mark.parametrize('against', ['each', 'weakest'])
@pytest.mark.parametrize('alpha', [0.1, 0.8])
def test_of_two_only_the_stronger_is_slowed(against, alpha):
  found = coefficients([0.6, 0.25], alpha=alpha, against=against)
  np.testing.assert_allclose(
    found, [1 - np.tanh(alpha * 0.6 / 0.25), 1], rtol=1e-5
  )


def test_of_three_each_ratio_counts_or_that_to_the_weakest():
  scores = np.array([0.5, 0.8, 0.2])
  means = [(0.5 / 0.8 + 0.5 / 0.2) / 2, (0.8 / 0.5 + 0.8 / 0.2) / 2]
  np.testing.assert_allclose(
    coefficients(scores, alpha=0.3),
    [*(1 - np.tanh(0.3 * np.array(means))), 1],
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    coefficients(scores, alpha=0.3, against='weakest'),
    [*(1 - np.tanh(0.3 * scores[:2] / 0.2)), 1],
    rtol=1e-5,
  )


@pytest.mark.parametrize('against', ['each', 'weakest'])
@pytest.mark.parametrize('score', [0.0, 0.3])
@pytest.mark.parametrize('count', [2, 3, 7])
def test_equal_scores_slow_nothing(against, score, count):
  assert coefficients([score] * count, against=against) == [1] * count


def test_just_ahead_the_coefficient_jumps():
  behind = 0.4
  ahead = float(np.nextafter(np.float32(behind), np.float32(1)))
  found = coefficients([ahead, behind], alpha=0.5)
  np.testing.assert_allclose(found, [1 - np.tanh(0.5), 1], rtol=1e-5)


def test_a_score_of_zero_is_the_limit_of_small_ones():
  np.testing.assert_array_equal(coefficients([0.4, 0.0]), [0, 1])
  np.testing.assert_allclose(coefficients([0.4, 1e-9]), [0, 1], atol=1e-6)
  found = coefficients([0.4, 0.0, 0.0], alpha=0.3)
  np.testing.assert_array_equal(found, [0, 1, 1])
  # An alpha of zero is no modulation, whatever the ratio.
  np.testing.assert_array_equal(coefficients([0.4, 0.0], alpha=0.0), [1, 1])


def test_a_common_factor_of_the_scores_is_no_matter():
  one = coefficients([0.5, 0.8, 0.2])
  np.testing.assert_allclose(coefficients([32, 51.2, 12.8]), one, rtol=1e-5)


# What is modulated.


def test_encoders_are_multiplied_and_the_rest_is_left():
  k = 1 - np.tanh(0.3 * 0.6 / 0.25)
  updates, state = modulate(alpha=0.3)
  np.testing.assert_allclose(state.coefficients, [1, k], rtol=1e-5)
  assert state.key is None
  for part, factor in {'filters': k, 'kernel': k, 'bias': 1}.items():
    np.testing.assert_allclose(
      updates['audio'][part], factor * GRADIENTS['audio'][part], rtol=1e-5
    )
  for name in ('head', 'visual'):
    jax.tree.map(np.testing.assert_array_equal, updates[name], GRADIENTS[name])


@either
@pytest.mark.parametrize(
  ('min_ndim', 'parts'),
  [
    (1, {'filters', 'kernel', 'bias'}),
    (2, {'filters', 'kernel'}),
    (4, {'filters'}),
  ],
)
def test_tensors_of_fewer_axes_are_left(factory, min_ndim, parts):
  for scores in (SCORES, {'audio': 0.2, 'visual': 0.3}):
    updates, _ = modulate(scores=scores, factory=factory, min_ndim=min_ndim)
    changed = {
      part
      for name in MODALITIES
      for part, leaf in updates[name].items()
      if np.any(leaf != GRADIENTS[name][part])
    }
    slowed = 'audio' if scores is SCORES else 'visual'
    owners = MODALITIES if factory == 'ogm_ge' else (slowed,)
    present = {part for name in owners for part in GRADIENTS[name]}
    assert changed == parts & present
  np.testing.assert_array_equal(
    updates['head']['kernel'], GRADIENTS['head']['kernel']
  )


def test_the_layout_of_the_parameters_is_no_matter():
  leaves = jax.tree.leaves(GRADIENTS)
  owners = 3 * ['audio'] + [None] + 3 * ['visual']
  expected = jax.tree.leaves(modulate()[0])
  backwards = modulate(
    leaves[::-1], encoder_of=lambda path: owners[::-1][int(path[0])]
  )[0]
  for leaf, other in zip(backwards[::-1], expected, strict=True):
    np.testing.assert_array_equal(leaf, other)


# Noise.


def test_noise_has_the_deviation_of_the_gradient_as_it_came(key):
  gradients = {
    'audio': 3.0 + 2.0 * jax.random.normal(key, (200, 100)),
    'visual': jax.random.uniform(key, (100, 300)),
  }
  for noise in (1.0, 0.5):
    updates, state = modulate(gradients, factory='ogm_ge', noise=noise)
    for name, k in zip(MODALITIES, state.coefficients, strict=True):
      xi = np.ravel(updates[name] - k * gradients[name])
      deviation = noise * np.std(gradients[name], ddof=1)
      # Of n normal numbers, to five standard errors.
      error = 5 / np.sqrt(xi.size)
      np.testing.assert_allclose(np.std(xi), deviation, rtol=error)
      assert abs(np.mean(xi)) < error * deviation
      np.testing.assert_allclose(
        np.mean(xi**4) / deviation**4, 3, rtol=5 * error
      )


def test_noise_is_drawn_for_every_tensor_and_step_anew():
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


def test_the_same_seed_gives_the_same_noise_and_another_one_another():
  first, _ = modulate(factory='ogm_ge', seed=5)
  again, _ = modulate(factory='ogm_ge', seed=5)
  other, _ = modulate(factory='ogm_ge', seed=6)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  kernels = first['audio']['kernel'], other['audio']['kernel']
  assert np.all(kernels[0] != kernels[1])


def test_without_noise_it_is_ogm():
  updates, _ = modulate(factory='ogm_ge', noise=0.0)
  expected, _ = modulate()
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
    updates,
    expected,
  )


def test_a_zero_gradient_gets_the_least_noise():
  gradients = {name: jnp.zeros((50, 40)) for name in MODALITIES}
  updates, _ = modulate(gradients, factory='ogm_ge')
  for leaf in jax.tree.leaves(updates):
    np.testing.assert_allclose(np.std(leaf), 1e-8, rtol=0.1)


def test_a_tensor_of_one_entry_has_no_deviation():
  gradients = {name: jnp.full((1, 1), 2.0) for name in MODALITIES}
  updates, state = modulate(gradients, factory='ogm_ge')
  for name, k in zip(MODALITIES, state.coefficients, strict=True):
    np.testing.assert_allclose(updates[name], [[2 * k]], rtol=1e-6)


# Training.


@functools.cache
def late_fusion():
  """A model's losses and scores as a function of params, and the params."""
  generator = np.random.default_rng(0)
  labels = jnp.arange(24) % 3
  inputs = {
    'audio': jnp.float32(generator.standard_normal((24, 5))),
    'visual': jnp.float32(np.eye(3, 7)[labels]),
  }
  model = nn.LateFusion(
    encoders={'audio': nn.MLP((6, 4)), 'visual': nn.MLP((4,))},
    num_classes=3,
    heads='share',
  )
  params = jax.jit(model.init)(jax.random.key(1), inputs)['params']

  def losses_fn(params):
    logits = model.apply({'params': params}, inputs)
    return (
      nn.cross_entropy_losses(logits, labels),
      nn.true_class_scores(logits, labels),
    )

  return losses_fn, params


def make_step(optimizer, traces):
  losses_fn, _ = late_fusion()

  def step(params, state):
    traces.append(1)
    losses, pullback, scores = jax.vjp(losses_fn, params, has_aux=True)
    updates, state = optimizer.update(
      pullback, state, params, losses=losses, scores=scores
    )
    return updates, state, losses, scores

  return step


def test_a_late_fusion_model_gets_its_fused_gradient_modulated():
  losses_fn, params = late_fusion()
  optimizer = optax.chain(
    mimo_jax.balance(weightings.fused_only()),
    mimo_jax.ogm(nn.encoder_of, ('audio', 'visual'), alpha=0.8),
  )
  updates, state, _, scores = jax.jit(make_step(optimizer, []))(
    params, optimizer.init(params)
  )
  gradient = jax.jit(jax.grad(lambda p: losses_fn(p)[0]['fused']))(params)
  ratio = scores['audio'] / scores['visual']
  found = [1 - np.tanh(0.8 * r) if r > 1 else 1 for r in (ratio, 1 / ratio)]
  np.testing.assert_allclose(
    optax.tree.get(state, 'coefficients'), found, rtol=1e-5
  )
  assert min(found) < 0.5 and max(found) == 1
  slowed = {'encoders_audio': found[0], 'encoders_visual': found[1]}

  def check(path, leaf, plain):
    k = slowed.get(path[0].key, 1) if plain.ndim > 1 else 1
    np.testing.assert_allclose(leaf, k * plain, rtol=1e-4, atol=1e-7)

  jax.tree_util.tree_map_with_path(check, updates, gradient)


def test_a_chain_traces_once_trains_and_draws_new_noise_at_each_step():
  _, params = late_fusion()
  optimizer = optax.chain(
    mimo_jax.balance(weightings.fused_only()),
    mimo_jax.ogm_ge(nn.encoder_of, ('audio', 'visual'), alpha=0.3),
    optax.adam(3e-2),
  )
  traces = []
  step = jax.jit(make_step(optimizer, traces))
  state, fused, keys = optimizer.init(params), [], []
  for _ in range(30):
    keys.append(jax.random.key_data(optax.tree.get(state, 'key')).tolist())
    updates, state, losses, _ = step(params, state)
    params = optax.apply_updates(params, updates)
    fused.append(losses['fused'])
  assert len(traces) == 1
  assert len({tuple(key) for key in keys}) == 30
  assert fused[-1] < 0.7 * fused[0]


def test_vmap_over_seeds_and_alphas_is_the_loop():
  kernels = {name: GRADIENTS[name]['kernel'] for name in MODALITIES}

  def update(seed, alpha):
    return modulate(kernels, factory='ogm_ge', seed=seed, alpha=alpha)[0]

  seeds, alphas = jnp.array([3, 4]), jnp.array([0.1, 0.9])
  together, alone = jax.jit(jax.vmap(update))(seeds, alphas), jax.jit(update)
  for i in range(2):
    jax.tree.map(
      lambda leaf, one, i=i: np.testing.assert_allclose(
        leaf[i], one, rtol=1e-5, atol=1e-6
      ),
      together,
      alone(seeds[i], alphas[i]),
    )


def test_a_window_of_steps_is_composed():
  modulation = optax.conditionally_transform(
    mimo_jax.ogm(first_key, MODALITIES), lambda step: step == 1
  )
  state = modulation.init(GRADIENTS)
  kernels = []
  for _ in range(3):
    updates, state = modulation.update(GRADIENTS, state, scores=SCORES)
    kernels.append(updates['audio']['kernel'])
  plain = GRADIENTS['audio']['kernel']
  slowed = modulate()[0]['audio']['kernel']
  for kernel, expected in zip(kernels, [plain, slowed, plain], strict=True):
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


@either
def test_bfloat16_gradients_have_bfloat16_updates(factory):
  narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), GRADIENTS)
  wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
  updates, state = modulate(narrow, factory=factory)
  expected, _ = modulate(wide, factory=factory)
  assert state.coefficients.dtype == jnp.float32
  for leaf, other in zip(
    jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True
  ):
    assert leaf.dtype == jnp.bfloat16
    np.testing.assert_allclose(
      leaf.astype(jnp.float32), other, rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize('value', [np.nan, np.inf])
@either
def test_a_score_that_is_not_finite_is_skipped_and_not_remembered(
  factory, value
):
  optimizer = optax.chain(
    EITHER[factory](first_key, MODALITIES),
    optax.apply_if_finite(optax.sgd(1.0), 5),
  )
  _, good = optimizer.update(
    GRADIENTS, optimizer.init(GRADIENTS), GRADIENTS, scores=SCORES
  )
  updates, state = optimizer.update(
    GRADIENTS, good, GRADIENTS, scores=SCORES | {'visual': jnp.float32(value)}
  )
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
  assert state[1].total_notfinite == 1
  np.testing.assert_array_equal(state[0].coefficients, good[0].coefficients)
  if factory == 'ogm_ge':
    assert np.any(
      jax.random.key_data(state[0].key) != jax.random.key_data(good[0].key)
    )


# Mistakes.


@either
@pytest.mark.parametrize(
  ('given', 'message'),
  [
    pytest.param(
      {'encoder_of': 'audio'}, 'expected a function from the keys', id='word'
    ),
    pytest.param(
      {'modalities': ('audio',)}, 'at least two unique names', id='one'
    ),
    pytest.param({'alpha': -0.1}, 'alpha=-0.1; expected a number', id='alpha'),
    pytest.param(
      {'against': 'all'}, "against='all'; expected 'each'", id='against'
    ),
    pytest.param({'min_ndim': -1}, 'min_ndim=-1; expected', id='axes'),
    pytest.param(
      {'encoder_of': lambda path: path[0]},
      "is 'head'; expected one of",
      id='unknown',
    ),
    pytest.param(
      {'encoder_of': nn.encoder_of}, 'parameters are .*audio/bias', id='none'
    ),
    pytest.param(
      {'modalities': ('audio', 'visual', 'text')},
      r"of \['text'\], encoder_of finds no tensor",
      id='no encoder',
    ),
    pytest.param(
      {'min_ndim': 5}, r'min_ndim=5 axes or more.*Lower', id='no tensor'
    ),
    pytest.param({'scores': None}, 'scores=None; expected a mapping', id='no'),
    pytest.param(
      {'scores': {'audio': 0.5, 'fused': 0.7}},
      r"scores of \['audio', 'fused'\], which lack \['visual'\]",
      id='missing',
    ),
    pytest.param(
      {'scores': SCORES | {'audio': jnp.ones(4)}},
      r"scores\['audio'\] of shape \(4,\); expected a scalar",
      id='vector',
    ),
  ],
)
def test_mistakes_are_named(factory, given, message):
  with pytest.raises(ValueError, match=f'{factory}.*{message}'):
    modulate(factory=factory, **given)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'noise': -1.0}, 'noise=-1.0; expected a number at least 0'),
    ({'seed': 0.5}, 'seed=0.5; expected a number that is whole'),
  ],
)
def test_mistakes_of_the_noise_are_named(given, message):
  with pytest.raises(ValueError, match=message):
    modulate(factory='ogm_ge', **given)


# Scores.


def test_scores_are_means_of_probabilities_also_of_bfloat16_logits():
  logits = np.array([[2.0, -1.0, 0.5], [0.25, 0.75, -3.0]])
  labels = np.array([2, 0])
  shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  expected = (shares[0, 2] + shares[1, 0]) / 2
  for dtype in (jnp.float32, jnp.bfloat16):
    scores = nn.true_class_scores(
      {'audio': jnp.asarray(logits, dtype)}, jnp.asarray(labels)
    )
    assert scores['audio'].dtype == jnp.float32
    np.testing.assert_allclose(scores['audio'], expected, rtol=1e-5)


def test_logits_of_another_batch_are_named():
  with pytest.raises(ValueError, match=r"logits\['audio'\] has shape \(2, 3\)"):
    nn.true_class_scores({'audio': jnp.ones((2, 3))}, jnp.arange(3))


def test_an_encoder_is_found_inside_other_modules():
  assert nn.encoder_of(('model', 'encoders_left_arm', 'encoders_x')) == (
    'left_arm'
  )
  assert nn.encoder_of(('fusion', 'audio')) is None
  assert nn.encoder_of(()) is None
