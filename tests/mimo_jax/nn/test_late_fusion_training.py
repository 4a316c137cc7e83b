"""Late fusion in training: gradients, initialisers, memory and types."""

import functools

import chex
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import nn
from tests import checks
from tests.mimo_jax.nn.modules import BATCH
from tests.mimo_jax.nn.modules import batch_of
from tests.mimo_jax.nn.modules import CLASSES
from tests.mimo_jax.nn.modules import FUSIONS
from tests.mimo_jax.nn.modules import model_of
from tests.mimo_jax.nn.modules import names_for
from tests.mimo_jax.nn.modules import rows
from tests.mimo_jax.nn.modules import TWO
from tests.mimo_jax.nn.modules import variables_of
from tests.mimo_jax.nn.modules import WIDTHS

LABELS = np.arange(BATCH) * 3 % CLASSES
# Keys that are the cheapest to compile.
KEY = jax.random.key(0, impl='unsafe_rbg')


# Gradients.


@pytest.mark.parametrize(
  'heads', ['auxiliary', *map(checks.slow, ('share', 'shapley', 'alone'))]
)
def test_uni_modal_losses_reach_their_own_encoder_unless_detached(heads):
  batch = batch_of()
  for detach_heads in (False, True):
    model = model_of(heads=heads, detach_heads=detach_heads)

    @jax.jit
    def lengths_of(params, model=model):
      def losses_fn(params):
        logits = model.apply({'params': params}, batch)
        return nn.cross_entropy_losses(logits, LABELS)

      jacobian = mimo_jax.value_and_jacobian(losses_fn)(params)[1]
      return jax.tree.map(jnp.linalg.norm, jacobian)

    lengths = lengths_of(variables_of(model, batch)['params'])
    for name in WIDTHS:
      touched = {
        'auxiliary': {f'encoders_{name}'},
        'share': {f'encoders_{name}', 'fusion'},
        'alone': {f'encoders_{name}', 'fusion'},
        'shapley': {'fusion', *(f'encoders_{each}' for each in WIDTHS)},
      }[heads]
      if detach_heads:
        touched = set()
      if heads == 'auxiliary':
        touched |= {f'heads_{name}'}
      for part, leaves in lengths[name].items():
        length = checks.flat(leaves).max()
        assert (length > 1e-6) == (part in touched), (name, part)
        assert part in touched or length == 0, (name, part)
    for part, leaves in lengths['fused'].items():
      untouched = checks.flat(leaves).max() == 0
      assert untouched == part.startswith('heads_'), part


# Initialisers and memory.


@pytest.mark.slow
def test_kernel_init_goes_to_fusion_and_heads():
  constant = flax.linen.initializers.constant(0.25)
  # A fusion that has its own keeps it.
  own = functools.partial(nn.ConcatFusion, kernel_init=constant)

  @jax.jit
  def params_of():
    found = {
      fusion: model_of(fusion, names_for(fusion), kernel_init=constant)
      for fusion in FUSIONS
    } | {'own': model_of().clone(fusion=own)}
    return {
      name: model.init(KEY, batch_of(model.encoders))['params']
      for name, model in found.items()
    }

  by_fusion = params_of()
  for fusion in FUSIONS:
    params = by_fusion[fusion]
    heads = {name: params[f'heads_{name}'] for name in names_for(fusion)}
    for path, leaf in jax.tree.leaves_with_path([params['fusion'], heads]):
      is_kernel = path[-1].key == 'kernel'
      np.testing.assert_array_equal(leaf, 0.25 if is_kernel else 0, fusion)
    assert np.std(params['encoders_audio']['Dense_0']['kernel']) > 0.1
  params = by_fusion['own']
  np.testing.assert_array_equal(params['fusion']['Dense_0']['kernel'], 0.25)
  assert np.std(params['heads_audio']['kernel']) > 0.1


@pytest.mark.slow
def test_an_initialiser_can_be_given_by_name():
  @jax.jit
  def variables_by():
    return [
      model_of(names=TWO, kernel_init=kernel_init).init(KEY, batch_of(TWO))
      for kernel_init in (
        'glorot_normal',
        flax.linen.initializers.glorot_normal(),
        None,
        'lecun_normal',
      )
    ]

  by_name, by_function, default, lecun = variables_by()
  checks.assert_equal(by_name, by_function)
  checks.assert_equal(default, lecun)
  one, other = (tree['params']['heads_audio'] for tree in (default, by_name))
  assert np.max(np.abs(one['kernel'] - other['kernel'])) > 1e-3


@pytest.mark.slow
def test_checkpointed_encoders_change_only_memory():
  inputs = {name: rows(4, 8, 8, 3, seed=seed) for seed, name in enumerate('ab')}
  encoders = {name: nn.LeNet(base_width=2, num_blocks=1) for name in 'ab'}
  plain = nn.LateFusion(encoders, 5)
  saved = plain.clone(checkpoint_encoders=True)
  variables = variables_of(plain, inputs)

  def gradient_of(model):
    def loss(params):
      logits, state = model.apply(
        variables | {'params': params},
        inputs,
        train=True,
        mutable=['batch_stats', 'intermediates'],
      )
      return nn.cross_entropy_losses(logits, jnp.arange(4))['fused'], state

    return jax.grad(loss, has_aux=True)

  traced = [
    jax.jit(gradient_of(model)).trace(variables['params'])
    for model in (plain, saved)
  ]
  assert ['remat' in str(each.jaxpr) for each in traced] == [False, True]
  expected, found = (
    each.lower().compile()(variables['params']) for each in traced
  )
  chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_features_are_the_fusions_inputs_in_float32():
  class Narrow(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, inputs):
      return flax.linen.Dense(3, dtype=jnp.bfloat16)(inputs)

  model = nn.LateFusion({name: Narrow() for name in WIDTHS}, CLASSES)
  variables = variables_of(model, batch_of())
  logits = model.apply(variables, batch_of())
  features = model.apply(variables, batch_of(), method='features')
  for value in (*logits.values(), *features.values()):
    assert value.dtype == jnp.float32
  fusion = {'params': variables['params']['fusion']}
  fused = nn.ConcatFusion(CLASSES).apply(fusion, features)
  np.testing.assert_array_equal(fused, logits['fused'])
