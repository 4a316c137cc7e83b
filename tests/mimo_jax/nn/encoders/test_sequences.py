"""The encoders of sequences, compared with PyTorch's, and padding.

`reference/sequence_encoders.json` says where its numbers come from.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn
from tests import checks
from tests import reference
from tests.mimo_jax.nn.encoders import drawn

REFERENCE = reference.read('sequence_encoders')
INPUTS = checks.standard_normal(*REFERENCE['shape'])  # [4, 7, 5]
LENGTH = jnp.array(REFERENCE['length'])
TRANSFORMER = functools.partial(
  nn.Transformer, width=12, num_layers=1, num_heads=3, feedforward_width=20
)
MODELS = {
  'gru': functools.partial(nn.GRU, width=6),
  'last': functools.partial(TRANSFORMER, pooling='last'),
  'first': functools.partial(TRANSFORMER, pooling='first'),
  'mean': functools.partial(TRANSFORMER, pooling='mean'),
}
each_encoder = pytest.mark.parametrize('name', MODELS)


def gru_params():
  """PyTorch stacks the gates r, z, n; Flax adds the two biases of r and z."""
  width, inner = 6, REFERENCE['shape'][-1]
  kernels = {
    'i': drawn.drawn('weight_ih_l0', (3 * width, inner)),
    'h': drawn.drawn('weight_hh_l0', (3 * width, width)),
  }
  input_bias, hidden_bias = (
    np.split(drawn.drawn(f'bias_{x}h_l0', (3 * width,)), 3) for x in 'ih'
  )
  cell = {}
  for i, gate in enumerate('rzn'):
    for side, kernel in kernels.items():
      cell[side + gate] = {'kernel': np.split(kernel, 3)[i].T}
    cell[f'i{gate}']['bias'] = input_bias[i] + (gate != 'n') * hidden_bias[i]
  cell['hn']['bias'] = hidden_bias[2]
  return {'cell': cell}


def transformer_params():
  """PyTorch stacks query, key and value, and the heads of each."""
  width, heads, hidden = 12, 3, 20
  inner = REFERENCE['shape'][-1]

  def dense(name, outer, inner):
    weight = drawn.drawn(f'{name}.weight', (outer, inner))
    return {'kernel': weight.T, 'bias': drawn.drawn(f'{name}.bias', (outer,))}

  params = {
    'projection': {
      'kernel': drawn.drawn('projection.weight', (width, inner, 1))[:, :, 0].T,
      'bias': drawn.drawn('projection.bias', (width,)),
    }
  }
  for i in range(2):
    layer = f'encoder.layers.{i}'
    stacked = f'{layer}.self_attn.in_proj'
    weights = np.split(drawn.drawn(f'{stacked}_weight', (3 * width, width)), 3)
    biases = np.split(drawn.drawn(f'{stacked}_bias', (3 * width,)), 3)
    attention = {
      name: {
        'kernel': weight.T.reshape(width, heads, width // heads),
        'bias': bias.reshape(heads, width // heads),
      }
      for name, weight, bias in zip(
        ('query', 'key', 'value'), weights, biases, strict=True
      )
    }
    out = dense(f'{layer}.self_attn.out_proj', width, width)
    out['kernel'] = out['kernel'].reshape(heads, width // heads, width)
    params[f'layer_{i}'] = {
      'attention': attention | {'out': out},
      'linear1': dense(f'{layer}.linear1', hidden, width),
      'linear2': dense(f'{layer}.linear2', width, hidden),
    } | {
      norm: {
        'scale': drawn.drawn(f'{layer}.{norm}.weight', (width,)),
        'bias': drawn.drawn(f'{layer}.{norm}.bias', (width,)),
      }
      for norm in ('norm1', 'norm2')
    }
  return params


def test_encoders_equal_those_of_pytorch():
  params = dict.fromkeys(MODELS, transformer_params()) | {'gru': gru_params()}
  variables = {
    name: {'params': jax.tree.map(np.float32, tree)}
    for name, tree in params.items()
  }
  encoders = {
    name: make() if name == 'gru' else make(num_layers=2)
    for name, make in MODELS.items()
  }

  @jax.jit
  def features_of(variables):
    return {
      name: encoder.apply(variables[name], INPUTS, length=LENGTH)
      for name, encoder in encoders.items()
    }

  expected = {'gru': REFERENCE['gru'], **REFERENCE['transformer']}
  for name, features in features_of(variables).items():
    checks.assert_close(features, np.array(expected[name]), 1e-4, 1e-5, name)


@pytest.mark.slow
@each_encoder
def test_padding_has_no_influence(name):
  encoder, length = MODELS[name](), LENGTH.at[2].set(0)
  variables = drawn.random_variables(encoder, INPUTS)

  @jax.jit
  def gradient_and_features(inputs):
    def size(variables):
      features = encoder.apply(variables, inputs, length=length)
      return jnp.sum(jnp.sin(3 * features)), features

    return jax.grad(size, has_aux=True)(variables)

  padding = (np.arange(7)[None] >= np.asarray(length)[:, None])[..., None]
  assert padding.any()
  gradient, features = gradient_and_features(INPUTS)
  for inputs in (
    np.where(padding, 0, INPUTS),
    np.where(padding, np.nan, INPUTS),
    np.concatenate([INPUTS, INPUTS[:, ::-1]], axis=1),
  ):
    other_gradient, other = gradient_and_features(inputs)
    checks.assert_close(other, features, 1e-5, 1e-5)
    checks.assert_close(other_gradient, gradient, 1e-4, 1e-4)
  np.testing.assert_array_equal(features[2], 0)
  assert np.min(np.max(np.abs(features[jnp.array([0, 1, 3])]), 1)) > 0.1


@pytest.mark.slow
@each_encoder
def test_without_lengths_all_steps_are_valid(name):
  encoder = MODELS[name]()
  variables = drawn.random_variables(encoder, INPUTS)
  features, full, shorter, turned = jax.jit(
    lambda variables, full, length: (
      encoder.apply(variables, INPUTS),
      encoder.apply(variables, INPUTS, length=full),
      encoder.apply(variables, INPUTS, length=length),
      encoder.apply(variables, INPUTS[:, ::-1]),
    )
  )(variables, np.full(4, 7), LENGTH)
  checks.assert_close(full, features)
  checks.assert_close(shorter[0], features[0], 1e-5, 1e-6)
  assert np.min(np.max(np.abs(shorter - features)[1:], 1)) > 1e-2
  # The order of steps matters to the GRU, and elsewhere by which are pooled.
  gap = np.max(np.abs(turned - features))
  assert gap < 1e-5 if name == 'mean' else gap > 1e-2


@pytest.mark.slow
def test_dropout_acts_in_training_only(key):
  encoder = MODELS['mean'](dropout=0.3)
  variables = drawn.random_variables(encoder, INPUTS)
  expected = jax.jit(encoder.apply)(variables, INPUTS)

  @jax.jit
  def trained(key):
    return encoder.apply(variables, INPUTS, train=True, rngs={'dropout': key})

  keys = jax.random.split(key, 2)
  one, other = trained(keys[0]), trained(keys[1])
  np.testing.assert_array_equal(trained(keys[0]), one)
  assert np.min([np.max(np.abs(one - x)) for x in (other, expected)]) > 0.1
  with_none = jax.jit(
    functools.partial(MODELS['mean'](dropout=0.0).apply, train=True)
  )
  checks.assert_close(with_none(variables, INPUTS), expected, 1e-5, 1e-6)


@pytest.mark.slow
def test_transformer_starts_with_the_variances_of_pytorch(key):
  encoder, inputs = nn.Transformer(60, 1, 5, 90), jnp.ones((1, 2, 80))
  params = jax.jit(encoder.init)(key, inputs)['params']
  assert set(params['projection']) == {'kernel', 'bias'}
  layer = params['layer_0']
  for (width, share), dense in {
    (80, 3): params['projection'],
    (60, 2): layer['attention']['query'],
    (60, 3): layer['attention']['out'],
    (90, 3): layer['linear2'],
  }.items():
    kernel = dense['kernel']
    np.testing.assert_allclose(
      np.var(kernel), 1 / (share * width), rtol=0.05, err_msg=str(width)
    )
    bound = np.sqrt(3 / (share * width))  # of a uniform distribution
    assert 0.98 * bound < np.max(np.abs(kernel)) <= bound
  without = jax.eval_shape(encoder.clone(use_bias=False).init, key, inputs)
  assert set(without['params']['projection']) == {'kernel'}


@pytest.mark.slow
def test_with_bfloat16_only_the_computation_is_in_bfloat16():
  for name, dtype in (('gru', jnp.bfloat16), ('mean', 'bfloat16')):
    make = MODELS[name]
    variables = drawn.random_variables(make(), INPUTS)
    outputs, expected = (
      jax.jit(make(dtype=dtype).apply)(variables, INPUTS)
      for dtype in (dtype, None)
    )
    drawn.assert_narrow(outputs, expected, variables, lambda output: output)


def test_impossible_sequences_and_settings_are_refused():
  def init(make, inputs=INPUTS, **options):
    jax.eval_shape(
      functools.partial(make().init, **options), jax.random.key(0), inputs
    )

  for name in ('gru', 'last'):
    for message, length in (
      (r'\(4,\) of integers .*given int32\[3\]', jnp.ones((3,), jnp.int32)),
      (r'given int32\[4, 1\]', jnp.ones((4, 1), jnp.int32)),
      (r'given float32\[4\]', jnp.ones((4,))),
    ):
      with pytest.raises(ValueError, match=message):
        init(MODELS[name], length=length)
    with pytest.raises(ValueError, match=r'\[batch, time, d\], given \(4, 7\)'):
      init(MODELS[name], jnp.ones((4, 7)))
  for message, settings in (
    ("pooling='max'; expected 'last', 'first' or 'mean'", {'pooling': 'max'}),
    ('width=12 is no multiple of num_heads=5', {'num_heads': 5}),
    ('Transformer was given width=0; expected a whole', {'width': 0}),
    ('given num_heads=0; expected a whole number at least 1', {'num_heads': 0}),
    ('num_layers=-1; expected a whole number at least 0', {'num_layers': -1}),
    (r'dropout=1.5; expected a number in \[0, 1\]', {'dropout': 1.5}),
  ):
    with pytest.raises(ValueError, match=message):
      init(functools.partial(TRANSFORMER, **settings))
  with pytest.raises(
    ValueError,
    match='GRU was given width=0; expected a whole number at least 1',
  ):
    init(functools.partial(nn.GRU, width=0))
