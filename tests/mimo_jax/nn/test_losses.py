"""Losses, scores and Shapley values from outputs; scaled gradients; imports.

The last tests are about importing the library, and `mimo_jax.nn` without Flax.
"""

import ast
import importlib
import importlib.machinery
import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import nn
from tests import checks
from tests.mimo_jax.nn.modules import BATCH
from tests.mimo_jax.nn.modules import CLASSES
from tests.mimo_jax.nn.modules import close
from tests.mimo_jax.nn.modules import features_of
from tests.mimo_jax.nn.modules import rows
from tests.mimo_jax.nn.modules import TWO
from tests.mimo_jax.nn.modules import wide
from tests.mimo_jax.nn.modules import WIDTHS

LABELS = jnp.arange(BATCH) * 2 % CLASSES
OUTPUTS = ('fused', 'audio')


def probabilities_of(logits):
  """Probabilities of the true class, in float64."""
  p = np.exp(wide(logits) - wide(logits).max(1, keepdims=True))
  return (p / p.sum(1, keepdims=True))[np.arange(BATCH), LABELS]


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_losses_and_scores_are_means_over_the_batch_in_float32(dtype):
  for size in (1, 30):
    logits = {
      name: jnp.asarray(size * rows(BATCH, CLASSES, seed=i), dtype)
      for i, name in enumerate(OUTPUTS)
    }
    losses = nn.cross_entropy_losses(logits, LABELS)
    scores = nn.true_class_scores(logits, LABELS)
    outputs = {name: value[:, :1] for name, value in logits.items()}
    targets = jnp.linspace(-3.0, 2.5, BATCH)
    errors = nn.absolute_error_losses(outputs, targets)
    for found in (losses, scores, errors):
      assert list(found) == list(OUTPUTS)
      assert all(value.dtype == jnp.float32 for value in found.values())
      assert all(value.shape == () for value in found.values())
    for name, value in logits.items():
      p = probabilities_of(value)
      checks.assert_close(losses[name], -np.log(p).mean(), 1e-5)
      checks.assert_close(scores[name], p.mean())
      gaps = wide(outputs[name])[:, 0] - np.asarray(targets)
      checks.assert_close(errors[name], np.abs(gaps).mean())


def test_losses_of_other_shapes_are_refused():
  for function in (nn.cross_entropy_losses, nn.true_class_scores):
    for logits, labels in (((5,), (5,)), ((4, 3), (5,)), ((5, 3), (5, 1))):
      with pytest.raises(ValueError, match=r"logits\['audio'\] has shape"):
        function({'audio': jnp.zeros(logits)}, jnp.zeros(labels, jnp.int32))
    with pytest.raises(
      ValueError, match='labels are float32; expected whole numbers'
    ):
      function({'audio': jnp.zeros((5, 3))}, jnp.zeros(5))
  for outputs, targets in (
    ((5,), (5,)),
    ((4, 1), (5,)),
    ((5, 3), (5,)),
    ((5, 1), (5, 1)),
  ):
    with pytest.raises(ValueError, match=r"outputs\['audio'\] has shape"):
      nn.absolute_error_losses(
        {'audio': jnp.zeros(outputs)}, jnp.zeros(targets)
      )


def test_an_encoder_is_found_inside_other_modules():
  for path, owner in (
    (('model', 'encoders_left_arm', 'encoders_x'), 'left_arm'),
    (('fusion', 'audio'), None),
    ((), None),
  ):
    assert nn.encoder_of(path) == owner


# Shapley values and scaled gradients.


def test_shapley_outputs_of_a_game_by_hand():
  features = features_of(TWO)
  absent = {
    name: rows(BATCH, WIDTHS[name], seed=40 + i) for i, name in enumerate(TWO)
  }
  kernels = {name: rows(WIDTHS[name], CLASSES, seed=50) for name in TWO}

  def fuse(values):
    assert list(values) == list(TWO)
    return jnp.tanh(values['visual'] @ kernels['visual']) * (
      values['audio'] @ kernels['audio']
    )

  fused, values = nn.shapley_outputs(fuse, features, absent)
  assert list(values) == list(TWO)
  seen, unseen = (
    np.tanh(wide(x['visual']) @ kernels['visual']) for x in (features, absent)
  )
  heard, unheard = (
    wide(x['audio']) @ kernels['audio'] for x in (features, absent)
  )
  close(fused, seen * heard)
  close(values['visual'], (seen * heard - unseen * heard + seen * unheard) / 2)
  close(values['audio'], (seen * heard - seen * unheard + unseen * heard) / 2)
  with pytest.raises(ValueError, match=r"absent has the modalities \['audio'"):
    nn.shapley_outputs(lambda _: 0, features_of(), absent)


def test_scaled_gradients_of_a_value_that_stays():
  value = rows(3, 4)
  factors = jnp.array([0.0, 1.0, -2.5, 1e30])

  def loss(value, factor):
    scaled = nn.scale_gradient(value, factor)
    return jnp.sum(scaled**3), scaled

  # Traced factors under vmap, and the gradient of the factor.
  (gradients, to_factor), same = jax.jit(
    jax.vmap(jax.grad(loss, (0, 1), has_aux=True), (None, 0))
  )(value, factors)
  for i, factor in enumerate(factors):
    np.testing.assert_array_equal(same[i], value)
    np.testing.assert_allclose(
      gradients[i], 3 * wide(value) ** 2 * float(factor), rtol=1e-6
    )
  np.testing.assert_array_equal(to_factor, 0)
  # In forward mode, and twice: each derivative has the factor once.
  _, tangent = jax.jvp(
    lambda x: nn.scale_gradient(x, 3), (2.0,), (jnp.float32(5.0),)
  )
  assert tangent == 15
  cube = jax.grad(jax.grad(lambda x: nn.scale_gradient(x, 2.0) ** 3))
  assert cube(5.0) == 2 * 2 * 6 * 5
  # Types are kept.
  narrow = jnp.asarray(rows(5), jnp.bfloat16)
  gradient = jax.grad(lambda x, k: jnp.sum(nn.scale_gradient(x, k)))(
    narrow, jnp.float32(0.3)
  )
  assert nn.scale_gradient(narrow, 2).dtype == jnp.bfloat16
  assert gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(gradient, jnp.full(5, 0.3, jnp.bfloat16))
  with pytest.raises(ValueError, match=r'factor of shape \(5,\)'):
    nn.scale_gradient(narrow, jnp.ones(5))


# Imports.


def imports_of(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def test_the_library_imports_no_optional_package():
  folder = pathlib.Path(mimo_jax.__file__).parent
  allowed = {'mimo_jax', 'jax', 'optax', 'numpy', *sys.stdlib_module_names}
  for path in folder.rglob('*.py'):
    if (folder / 'nn') in path.parents:
      continue
    for name in imports_of(path):
      assert name.split('.')[0] in allowed, (path, name)
      assert not name.startswith('mimo_jax.nn'), (path, name)


@pytest.mark.parametrize('block', ['find_spec', 'path finder'])
def test_without_flax_the_error_says_what_to_install(block, monkeypatch):
  for name in list(sys.modules):
    if name.split('.')[0] == 'flax' or name.startswith('mimo_jax.nn'):
      monkeypatch.delitem(sys.modules, name)
  if block == 'find_spec':
    owner = importlib.util
  else:
    owner = importlib.machinery.PathFinder
  find = owner.find_spec
  monkeypatch.setattr(
    owner,
    'find_spec',
    lambda name, *args: (
      None if name.split('.')[0] == 'flax' else find(name, *args)
    ),
  )
  with pytest.raises(ModuleNotFoundError) as error:
    importlib.import_module('mimo_jax.nn')
  assert "pip install 'mimo-jax[nn]'" in str(error.value)
