"""Late fusion: its outputs, what its encoders get, and what it refuses."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn
from tests import checks
from tests.mimo_jax.nn.modules import ALL
from tests.mimo_jax.nn.modules import BATCH
from tests.mimo_jax.nn.modules import batch_of
from tests.mimo_jax.nn.modules import CLASSES
from tests.mimo_jax.nn.modules import close
from tests.mimo_jax.nn.modules import dense
from tests.mimo_jax.nn.modules import features_of
from tests.mimo_jax.nn.modules import FUSIONS
from tests.mimo_jax.nn.modules import model_of
from tests.mimo_jax.nn.modules import names_for
from tests.mimo_jax.nn.modules import rows
from tests.mimo_jax.nn.modules import TWO
from tests.mimo_jax.nn.modules import variables_of
from tests.mimo_jax.nn.modules import WIDTHS

each_fusion = pytest.mark.parametrize(
  'fusion',
  [
    'concat',
    *(
      pytest.param(fusion, marks=pytest.mark.slow)
      for fusion in FUSIONS
      if fusion != 'concat'
    ),
  ],
)
# The cheapest keys to compile.
KEY = jax.random.key(0, impl='unsafe_rbg')


# Outputs.


@each_fusion
def test_outputs_are_those_of_the_fusion_and_of_a_head_each(fusion):
  names = names_for(fusion)
  model, batch = model_of(fusion, names), batch_of(names)
  variables = variables_of(model, batch)
  params = variables['params']
  assert set(params) == {
    'fusion',
    *(f'encoders_{name}' for name in names),
    *(f'heads_{name}' for name in names),
  }
  logits = model.apply(variables, batch)
  features = model.apply(variables, batch, method='features')
  assert list(logits) == ['fused', *names]
  fused = FUSIONS[fusion](CLASSES)
  close(logits['fused'], fused.apply({'params': params['fusion']}, features))
  for name in names:
    # Of the encoder, layer by layer.
    hidden = batch[name]
    for layer in ('Dense_0', 'Dense_1'):
      hidden = np.maximum(dense(params[f'encoders_{name}'][layer], hidden), 0)
    close(features[name], hidden)
    close(logits[name], dense(params[f'heads_{name}'], features[name]))
  # The order of the modalities changes nothing.
  turned = model.clone(encoders=dict(reversed(model.encoders.items())))
  other = turned.apply(variables, batch)
  close({name: other[name] for name in logits}, logits)


@each_fusion
def test_shapley_logits_are_the_values_of_all_coalitions(fusion):
  for names in (TWO, ALL) if names_for(fusion) == ALL else (TWO,):
    model, batch = model_of(fusion, names, heads='shapley'), batch_of(names)
    variables = variables_of(model, batch)
    # As many parameters as the same model has without its heads.
    assert set(variables['params']) == {
      'fusion',
      *(f'encoders_{name}' for name in names),
    }
    logits = jax.jit(model.apply)(variables, batch)
    close(sum(logits[name] for name in names), logits['fused'])
    given = model.apply(variables, batch, method='features')
    absent = model.apply(
      variables, jax.tree.map(np.zeros_like, batch), method='features'
    )
    fused = functools.partial(
      FUSIONS[fusion](CLASSES).apply, {'params': variables['params']['fusion']}
    )

    def f(*coalition, names=names, given=given, absent=absent, fused=fused):
      """The fused logits: for the others what zeros encode to."""
      if not coalition:
        return 0
      return fused(
        {name: (given if name in coalition else absent)[name] for name in names}
      )

    close(logits['fused'], f(*names))
    for name in names:
      if names == TWO:
        (other,) = set(TWO) - {name}
        expected = (f(*TWO) - f(other) + f(name)) / 2
      else:
        one, other = (each for each in ALL if each != name)
        expected = (
          f(name) / 3
          + (f(name, one) - f(one)) / 6
          + (f(name, other) - f(other)) / 6
          + (f(*ALL) - f(one, other)) / 3
        )
      close(logits[name], expected, f'{name} of {names}')


@pytest.mark.slow
@pytest.mark.parametrize('fusion', ['concat', 'sum', 'cosine'])
def test_logits_of_shares_are_the_shares_of_the_fusion(fusion):
  model, batch = model_of(fusion, heads='share'), batch_of()
  variables = variables_of(model, batch)
  logits, state = model.apply(variables, batch, mutable=['intermediates'])
  assert 'heads_audio' not in variables['params']
  close(sum(logits[name] for name in WIDTHS), logits['fused'])
  features = state['intermediates']['features']
  # In whatever order they come.
  shares = model.shares(variables, {n: features[n] for n in sorted(features)})
  assert set(shares) == set(WIDTHS)
  for name, share in shares.items():
    close(share, logits[name])


class Normalised(flax.linen.Module):
  """An encoder whose features depend on running statistics and dropout."""

  @flax.linen.compact
  def __call__(self, inputs, train=False):
    dropped = flax.linen.Dropout(0.5, deterministic=not train)(inputs)
    return flax.linen.BatchNorm(use_running_average=not train)(dropped)


def test_absent_modalities_are_encoded_in_evaluation_mode(key):
  encoders = {name: Normalised() for name in TWO}
  model = nn.LateFusion(encoders, CLASSES, heads='shapley')
  batch = batch_of(TWO)
  variables = variables_of(model, batch)
  statistics = {
    f'encoders_{name}': {
      'BatchNorm_0': {'mean': jnp.full(width, 2.0), 'var': jnp.ones(width)}
    }
    for name, width in (('visual', 2), ('audio', 3))
  }
  variables = {'params': variables['params'], 'batch_stats': statistics}
  train = {'train': True, 'rngs': {'dropout': key}, 'mutable': ['batch_stats']}
  logits, _ = model.apply(variables, batch, **train)
  close(logits['audio'] + logits['visual'], logits['fused'])
  # The fusion is linear: the difference of the two has the absent ones alone,
  # φ_a - φ_v = f(a, 0) - f(0, v) = (a - a₀) W_a - (v - v₀) W_v.
  features, _ = model.apply(variables, batch, method='features', **train)
  kernel = variables['params']['fusion']['Dense_0']['kernel']
  gaps = {}
  for name, part in (('audio', kernel[:3]), ('visual', kernel[3:])):
    norm = variables['params'][f'encoders_{name}']['BatchNorm_0']
    zero = -2.0 / np.sqrt(1 + 1e-5) * norm['scale'] + norm['bias']
    gaps[name] = (features[name] - zero[None]) @ part
  close(logits['audio'] - logits['visual'], gaps['audio'] - gaps['visual'])


# Fusions and encoders of one's own.


class Own(flax.linen.Module):
  """A fusion that has shares and takes `train`, by which it doubles them."""

  num_classes: int

  def __call__(self, features, train=False):
    return sum(self.shares(features).values()) * (2 if train else 1)

  def shares(self, features):
    return {
      name: jnp.tile(jnp.mean(value, 1, keepdims=True), self.num_classes)
      for name, value in features.items()
    }


def test_a_fusion_of_ones_own_gets_features_and_train_and_may_have_shares():
  model = model_of(heads='share').clone(fusion=Own)
  variables = variables_of(model, batch_of())
  assert 'fusion' not in variables['params']
  features = model.apply(variables, batch_of(), method='features')
  means = {
    name: np.tile(np.mean(value, 1, keepdims=True), CLASSES)
    for name, value in features.items()
  }
  for train in (False, True):
    logits = model.apply(variables, batch_of(), train=train)
    total = sum(means.values()) * (2 if train else 1)
    close(logits, {'fused': total, **means})
    close(model.fuse(variables, features, train=train), total)


def test_shapley_fuses_once_for_each_coalition():
  calls = []

  class Counted(Own):
    def __call__(self, features, train=False):
      calls.append(sorted(features))
      return super().__call__(features, train)

  model = model_of(heads='shapley').clone(fusion=Counted)
  jax.eval_shape(model.init, KEY, batch_of())
  assert calls == [sorted(WIDTHS)] * 7


def test_train_and_length_go_to_those_that_take_them():
  class Trained(flax.linen.Module):
    """Takes `train` alone, and not by keyword alone."""

    @flax.linen.compact
    def __call__(self, inputs, train=False):
      return inputs + train

  encoders = {
    'plain': flax.linen.Sequential([flax.linen.Dense(3)]),
    'text': nn.GRU(4),
    'trained': Trained(),
  }
  model = nn.LateFusion(encoders, CLASSES)
  batch = {
    'plain': rows(6, 2),
    'plain_length': jnp.arange(6),
    'text': rows(6, 5, 3),
    'text_length': jnp.array([5, 1, 3, 2, 0, 4]),
    'trained': rows(6, 2),
    'trained_length': jnp.arange(6),
  }
  variables = variables_of(model, batch)
  features = model.apply(variables, batch, method='features')
  expected = encoders['text'].apply(
    {'params': variables['params']['encoders_text']},
    batch['text'],
    length=batch['text_length'],
  )
  close(features['text'], expected)
  np.testing.assert_array_equal(features['text'][4], 0)
  np.testing.assert_array_equal(features['trained'], batch['trained'])
  in_training = model.apply(variables, batch, method='features', train=True)
  np.testing.assert_array_equal(in_training['trained'], batch['trained'] + 1)
  # Without the lengths all steps count.
  del batch['text_length']
  features = model.apply(variables, batch, method='features')
  assert np.all(np.max(np.abs(features['text'] - expected)[1:], 1) > 1e-3)


@each_fusion
def test_logits_of_a_modality_alone_are_the_fusion_without_the_others(fusion):
  names = names_for(fusion)
  model = model_of(fusion, names, heads='alone')
  if fusion in ('film', 'gated'):
    message = 'multiplies features, .*Expected one width'
    checks.assert_refused(
      message, model.init, jax.random.key(0), batch_of(names)
    )
    encoders = {name: nn.MLP((5,)) for name in names}
    model = model.clone(encoders=encoders)
  batch = batch_of(names)
  logits, variables = model.init_with_output(jax.random.key(1), batch)
  assert not any(name.startswith('heads') for name in variables['params'])
  features = model.apply(variables, batch, method='features')
  outputs = model.alone(variables, features)
  for name in names:
    instead = features[name] if fusion in ('film', 'gated') else 0
    only = {
      each: value if each == name else value * 0 + instead
      for each, value in features.items()
    }
    close(logits[name], model.fuse(variables, only))
    close(outputs[name], logits[name])
    assert np.median(np.abs(logits[name] - logits['fused'])) > 1e-4


# Features.


@pytest.mark.slow
def test_a_pass_gives_the_features_that_it_fused():
  # Of encoders that draw: a second pass with another key would not be equal.
  batch, key = batch_of(TWO), jax.random.key(4)
  for heads in ('auxiliary', 'shapley'):
    encoders = {name: Normalised() for name in TWO}
    model = nn.LateFusion(encoders, CLASSES, heads=heads, detach_heads=True)
    variables = model.init(key, batch)
    assert set(variables) == {'params', 'batch_stats'}
    apply = functools.partial(
      model.apply, train=True, rngs={'dropout': key}, mutable=['batch_stats']
    )
    both = ['batch_stats', 'intermediates']
    logits, state = apply(variables, batch, mutable=both)
    features = state['intermediates']['features']
    assert list(features) == list(TWO)
    expected, _ = apply(variables, batch, method='features')
    checks.assert_equal(features, dict(expected))
    close(model.fuse(variables, features), logits['fused'])
    # They are replaced, not heaped up, if they come in again.
    given = {**variables, 'intermediates': state['intermediates']}
    checks.assert_equal(apply(given, batch, mutable=both)[1], state)
    # Nothing changes for those who do not ask for them.
    plain, statistics = apply(variables, batch)
    checks.assert_equal(plain, logits)
    assert set(statistics) == {'batch_stats'}


@pytest.mark.slow
@pytest.mark.parametrize('fusion', ['concat', 'film'])
def test_fuse_is_the_fusion_of_given_features(fusion):
  names = names_for(fusion)
  model, features = model_of(fusion, names), features_of(names)
  variables = variables_of(model, batch_of(names))
  layers = {'params': variables['params']['fusion']}
  cotangent = rows(BATCH, CLASSES, seed=30)

  def gradients_of(fuse, variables):
    def loss(variables, features):
      fused = fuse(variables, features)
      return jnp.sum(fused * cotangent), fused

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables, features)

  (to_variables, to_features), fused = gradients_of(
    lambda variables, features: model.fuse(variables, {**features, 'other': 0}),
    variables,
  )
  (to_layers, expected), expected_fused = gradients_of(
    FUSIONS[fusion](CLASSES).apply, layers
  )
  close(fused, expected_fused)
  close(to_features, expected)
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(to_layers))
  close(to_variables['params'].pop('fusion'), to_layers['params'])
  assert not np.any(checks.flat(to_variables))


# What is refused.


@pytest.mark.slow
def test_frozen_encoders_stand_still_and_have_no_backward_pass():
  encoders = {'face': nn.LeNet(2, 1), 'speech': nn.LeNet(3, 1)}
  inputs = {name: rows(6, 8, 8, 1, seed=i) for i, name in enumerate(encoders)}
  plain = nn.LateFusion(encoders, CLASSES)
  frozen = plain.clone(frozen=('speech',))
  variables = variables_of(plain, inputs)
  params = variables.pop('params')
  variables = jax.tree.map(jnp.abs, variables)  # variances

  def gradient(model):
    def loss(params):
      logits, seen = model.apply(
        {'params': params, **variables}, inputs, train=True, mutable=True
      )
      return jnp.sum(logits['fused'] ** 2), (logits, seen['batch_stats'])

    return jax.grad(loss, has_aux=True)

  found, (logits, seen) = jax.jit(gradient(frozen))(params)
  _, (others, stats) = jax.jit(gradient(plain))(params)
  before = variables['batch_stats']
  checks.assert_close(seen['encoders_face'], stats['encoders_face'])
  checks.assert_close(seen['encoders_speech'], before['encoders_speech'])
  assert not any(map(np.any, jax.tree.leaves(found['encoders_speech'])))
  assert all(map(np.any, jax.tree.leaves(found['encoders_face'])))
  evaluated = plain.apply({'params': params, **variables}, inputs)
  checks.assert_close(logits['speech'], evaluated['speech'])
  checks.assert_close(logits['face'], others['face'])
  assert np.max(np.abs(logits['speech'] - others['speech'])) > 1e-2
  # Forward both, and back into one of them, whose inputs need no gradient.
  convolutions = [
    str(jax.make_jaxpr(gradient(model))(params)).count('conv_general_dilated[')
    for model in (plain, frozen)
  ]
  assert convolutions == [4, 3]


def test_models_and_inputs_that_cannot_be_are_refused():
  class Bare(flax.linen.Module):
    num_classes: int

    @flax.linen.compact
    def __call__(self, features):
      return flax.linen.Dense(self.num_classes)(features['text'])

  def init(model, batch):
    jax.eval_shape(model.init, KEY, batch)

  without = {
    name: value for name, value in batch_of().items() if name != 'text'
  }
  fused = nn.LateFusion({'fused': nn.MLP((3,)), 'audio': nn.MLP((3,))}, CLASSES)
  for message, model, batch in (
    (
      r"frozen has \['face'\]; the modal",
      model_of(frozen=('face',)),
      batch_of(),
    ),
    (r"lack \['text'\].*'visual'.*zeros", model_of(), without),
    ("modality is named 'fused'", fused, {'fused': rows(2, 3)}),
    ("heads='none'; expected 'auxiliary'", model_of(heads='none'), batch_of()),
    (
      'no such attribute',
      model_of(kernel_init='he_normal').clone(fusion=Bare),
      batch_of(),
    ),
    *(
      (
        rf"kernel_init='{name}': expected",
        model_of(kernel_init=name),
        batch_of(),
      )
      for name in ('golorot', 'variance_scaling', 'zeros')
    ),
    *(
      (
        r'shares.*auxiliary',
        model_of(fusion, names_for(fusion), heads='share'),
        batch_of(names_for(fusion)),
      )
      for fusion in ('hidden', 'film', 'gated')
    ),
  ):
    checks.assert_refused(message, init, model, batch)
  model, features = model_of('hidden'), features_of()
  variables = variables_of(model, batch_of())
  checks.assert_refused(
    r"lack \['text'\]", model.apply, variables, without, method='features'
  )
  for call in (model.fuse, model.shares):
    checks.assert_refused(
      r"features lack \['audio'\]: expected",
      call,
      variables,
      {name: features[name] for name in ('visual', 'text')},
    )
    checks.assert_refused(
      r"expected \{'params': parameters\}", call, variables['params'], features
    )
  checks.assert_refused(
    r'hidden_widths=.*no shares', model.shares, variables, features
  )
  film = model_of('film', TWO)
  checks.assert_refused(
    r'FiLMFusion has no method `shares`',
    film.shares,
    variables_of(film, batch_of(TWO)),
    features,
  )
