"""Late fusion, its losses, and what importing them asks for."""

import subprocess
import sys
import textwrap

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import nn

SIZES = {'visual': 9, 'audio': 4, 'text': 6}
CLASSES = 5
FUSIONS = {'concat': nn.ConcatFusion, 'sum': nn.SumFusion}
each_fusion = pytest.mark.parametrize('fusion', FUSIONS)


def make_model(fusion='concat', detach_heads=False, sizes=SIZES):
  encoders = {name: nn.MLP((7 + i, 3 + i)) for i, name in enumerate(sizes)}
  return nn.LateFusion(
    encoders, CLASSES, fusion=FUSIONS[fusion], detach_heads=detach_heads
  )


def make_batch(key, count=11):
  inputs = {
    name: jax.random.normal(jax.random.fold_in(key, size), (count, size))
    for name, size in SIZES.items()
  }
  return inputs | {'label': jnp.arange(count) * 3 % CLASSES}


def make_params(model, key, batch):
  return model.init(jax.random.fold_in(key, 1), batch)['params']


def make_losses_fn(model, batch):
  def losses_fn(params):
    logits = model.apply({'params': params}, batch)
    return nn.cross_entropy_losses(logits, batch['label'])

  return losses_fn


def encoders_of(params):
  """All that is not a head and not the fusion."""
  return {
    name: value
    for name, value in params.items()
    if not name.startswith('heads_') and name != 'fusion'
  }


@each_fusion
def test_late_fusion_has_fused_logits_and_those_of_each_modality(fusion, key):
  model, batch = make_model(fusion), make_batch(key)
  logits, variables = model.init_with_output(key, batch)
  assert set(logits) == {'fused', *SIZES}
  for value in logits.values():
    assert value.shape == (11, CLASSES)
  heads = {name for name in variables['params'] if name.startswith('heads_')}
  assert heads == {f'heads_{name}' for name in SIZES}
  assert len(encoders_of(variables['params'])) == len(SIZES)


@each_fusion
def test_fused_logits_are_those_of_the_fused_features(fusion, key):
  model, batch = make_model(fusion), make_batch(key)
  params = make_params(model, key, batch)
  logits, state = model.apply(
    {'params': params}, batch, capture_intermediates=True
  )
  params = jax.tree.map(np.asarray, params)
  captured = state['intermediates']
  features = {
    name: np.asarray(captured[f'encoders_{name}']['__call__'][0], np.float64)
    for name in SIZES
  }
  if fusion == 'concat':
    together = np.concatenate([features[name] for name in sorted(SIZES)], 1)
    layer = params['fusion']['Dense_0']
    expected = together @ layer['kernel'] + layer['bias']
  else:
    expected = sum(
      features[name] @ params['fusion'][name]['kernel']
      + params['fusion'][name]['bias']
      for name in SIZES
    )
  np.testing.assert_allclose(logits['fused'], expected, rtol=1e-4, atol=1e-5)
  for name, value in features.items():
    head = params[f'heads_{name}']
    np.testing.assert_allclose(
      logits[name], value @ head['kernel'] + head['bias'], rtol=1e-4, atol=1e-5
    )


@each_fusion
def test_the_order_of_the_modalities_changes_nothing(fusion, key):
  batch = make_batch(key)
  turned = dict(reversed(SIZES.items()))
  encoders = {name: nn.MLP((6, 3)) for name in SIZES}
  one = nn.LateFusion(encoders, CLASSES, fusion=FUSIONS[fusion])
  other = nn.LateFusion(
    {name: encoders[name] for name in turned}, CLASSES, fusion=FUSIONS[fusion]
  )
  params = make_params(one, key, batch)
  for name, value in one.apply({'params': params}, batch).items():
    np.testing.assert_allclose(
      other.apply({'params': params}, batch)[name], value, rtol=1e-6
    )


def test_a_fusion_of_ones_own_gets_the_features(key):
  class WidthFusion(flax.linen.Module):
    num_classes: int

    @flax.linen.compact
    def __call__(self, features):
      widths = sum(value.shape[-1] for value in features.values())
      return jnp.full([11, self.num_classes], widths)

  encoders = {name: nn.MLP((7, 2 + i)) for i, name in enumerate(SIZES)}
  model = nn.LateFusion(encoders, CLASSES, fusion=WidthFusion)
  logits, _ = model.init_with_output(key, make_batch(key))
  np.testing.assert_array_equal(logits['fused'], np.full([11, CLASSES], 9))


@pytest.mark.parametrize('detach_heads', [False, True])
@each_fusion
def test_a_modality_touches_its_own_encoder_unless_detached(
  fusion, detach_heads, key
):
  model, batch = make_model(fusion, detach_heads), make_batch(key)
  params = make_params(model, key, batch)
  _, jacobian = mimo_jax.value_and_jacobian(make_losses_fn(model, batch))(
    params
  )
  for name in SIZES:
    for part, gradient in jacobian[name].items():
      size = optax.tree.norm(gradient)
      touched = part == f'heads_{name}' or (
        part == f'encoders_{name}' and not detach_heads
      )
      assert (size > 1e-3) == touched, (name, part, size)
      assert touched or size == 0
  for part, gradient in jacobian['fused'].items():
    size = optax.tree.norm(gradient)
    assert (size == 0) == part.startswith('heads_'), (part, size)


@each_fusion
def test_detached_heads_learn_beside_the_training_on_the_fused_loss(
  fusion, key
):
  batch = make_batch(key)
  model = make_model(fusion)
  params = make_params(model, key, batch)

  def trained(detach_heads, weighting):
    losses_fn = make_losses_fn(make_model(fusion, detach_heads), batch)
    optimizer = optax.chain(
      mimo_jax.balance(weighting, objectives=('fused', *SIZES)),
      optax.adam(3e-2),
    )

    @jax.jit
    def step(carry, _):
      params, state = carry
      losses, pullback = jax.vjp(losses_fn, params)
      updates, state = optimizer.update(pullback, state, params, losses=losses)
      return (optax.apply_updates(params, updates), state), losses

    (last, _), losses = jax.lax.scan(
      step, (params, optimizer.init(params)), length=30
    )
    return last, losses

  detached, losses = trained(True, mimo_jax.weightings.sum())
  joint, _ = trained(False, mimo_jax.weightings.fused_only())
  for part in ('fusion', *encoders_of(params)):
    for one, other, start in zip(
      *(jax.tree.leaves(tree[part]) for tree in (detached, joint, params)),
      strict=True,
    ):
      np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
      assert np.max(np.abs(one - start)) > 1e-2
  for name in SIZES:
    assert losses[name][-1] < 0.9 * losses[name][0]
    head = f'heads_{name}'
    np.testing.assert_array_equal(joint[head]['kernel'], params[head]['kernel'])


def test_a_missing_input_is_named(key):
  model, batch = make_model(), make_batch(key)
  del batch['text']
  with pytest.raises(ValueError, match=r"lack \['text'\].*'visual'.*zeros"):
    model.init(key, batch)


def test_no_modality_may_be_called_fused(key):
  model = nn.LateFusion({'fused': nn.MLP((3,)), 'audio': nn.MLP((3,))}, CLASSES)
  inputs = {'fused': jnp.ones([2, 3]), 'audio': jnp.ones([2, 4])}
  with pytest.raises(ValueError, match="modality is named 'fused'"):
    model.init(key, inputs)


def test_mlp_is_dense_layers_with_relu(key):
  encoder, inputs = nn.MLP((6, 3)), jax.random.normal(key, (11, 4))
  features, variables = encoder.init_with_output(key, inputs)
  hidden = np.asarray(inputs, np.float64)
  for name in ('Dense_0', 'Dense_1'):
    layer = jax.tree.map(np.asarray, variables['params'][name])
    hidden = np.maximum(hidden @ layer['kernel'] + layer['bias'], 0)
  np.testing.assert_allclose(features, hidden, rtol=1e-4, atol=1e-6)


# The losses.


def test_losses_are_the_mean_negative_log_likelihood(key):
  logits = {
    name: 30 * jax.random.normal(jax.random.fold_in(key, i), (13, CLASSES))
    for i, name in enumerate(('fused', 'audio'))
  }
  labels = jnp.arange(13) * 2 % CLASSES
  losses = nn.cross_entropy_losses(logits, labels)
  assert list(losses) == list(logits)
  for name, value in logits.items():
    wide = np.asarray(value, np.float64)
    shifted = wide - wide.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = -log_p[np.arange(13), labels].mean()
    np.testing.assert_allclose(losses[name], expected, rtol=1e-6)
    assert losses[name].shape == ()


def test_losses_of_bfloat16_logits_are_float32(key):
  logits = jax.random.normal(key, (13, CLASSES)).astype(jnp.bfloat16)
  labels = jnp.arange(13) % CLASSES
  loss = nn.cross_entropy_losses({'fused': logits}, labels)['fused']
  wide = nn.cross_entropy_losses({'fused': logits.astype(jnp.float32)}, labels)[
    'fused'
  ]
  assert loss.dtype == jnp.float32
  np.testing.assert_array_equal(loss, wide)


@pytest.mark.parametrize(
  ('logits', 'labels'), [((5,), (5,)), ((4, 3), (5,)), ((5, 3), (5, 1))]
)
def test_losses_of_other_shapes_are_refused(logits, labels):
  with pytest.raises(ValueError, match=r"logits\['audio'\] has shape"):
    nn.cross_entropy_losses(
      {'audio': jnp.zeros(logits)}, jnp.zeros(labels, jnp.int32)
    )


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_absolute_errors_are_means_of_distances_in_float32(dtype, key):
  outputs = {
    name: jax.random.normal(jax.random.fold_in(key, i), (13, 1)).astype(dtype)
    for i, name in enumerate(('fused', 'audio'))
  }
  targets = jnp.linspace(-3.0, 2.5, 13)
  losses = nn.absolute_error_losses(outputs, targets)
  assert list(losses) == list(outputs)
  for name, value in outputs.items():
    gaps = np.asarray(value, np.float64)[:, 0] - np.asarray(targets)
    np.testing.assert_allclose(losses[name], np.abs(gaps).mean(), rtol=1e-6)
    assert losses[name].dtype == jnp.float32
    assert losses[name].shape == ()


@pytest.mark.parametrize(
  ('outputs', 'targets'),
  [((5,), (5,)), ((4, 1), (5,)), ((5, 3), (5,)), ((5, 1), (5, 1))],
)
def test_absolute_errors_of_other_shapes_are_refused(outputs, targets):
  with pytest.raises(ValueError, match=r"outputs\['audio'\] has shape"):
    nn.absolute_error_losses({'audio': jnp.zeros(outputs)}, jnp.zeros(targets))


# What is imported. In processes of their own, where nothing is yet.


def run(code):
  return subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)],
    capture_output=True,
    text=True,
    check=False,
  )


def test_importing_the_library_imports_no_optional_package():
  result = run(
    """
    import sys
    import optax
    def packages():
      return {name.split('.')[0] for name in sys.modules}
    before = packages()
    import mimo_jax
    new = packages() - before
    print(sorted(new - {'mimo_jax'} - set(sys.stdlib_module_names)))
    optional = {
      'flax', 'chex', 'grain', 'orbax', 'ml_collections', 'tensorflow_datasets'
    }
    print(sorted(optional & set(sys.modules)))
    """
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.splitlines() == ['[]', '[]']


NO_FLAX = {
  'find_spec': """
    import importlib.util
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *args: (
      None if name == 'flax' else find(name, *args)
    )
  """,
  'path finder': """
    import importlib.machinery
    find = importlib.machinery.PathFinder.find_spec
    importlib.machinery.PathFinder.find_spec = lambda name, *args: (
      None if name.split('.')[0] == 'flax' else find(name, *args)
    )
  """,
}


@pytest.mark.parametrize('block', NO_FLAX)
def test_without_flax_the_models_say_what_to_install(block):
  block = textwrap.dedent(NO_FLAX[block])
  result = run(f'{block}\nimport mimo_jax\nimport mimo_jax.nn')
  assert result.returncode == 1
  assert 'ModuleNotFoundError' in result.stderr
  assert "pip install 'mimo-jax[nn]'" in result.stderr
  library = run(f'{block}\nimport mimo_jax; print(mimo_jax.mimo())')
  assert library.returncode == 0, library.stderr
