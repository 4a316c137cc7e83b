"""Late fusion: its outputs, and what it refuses."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn
from tests import checks
from tests.mimo_jax.nn.modules import ALL
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

# Keys that are the cheapest to compile.
KEY = jax.random.key(0, impl='unsafe_rbg')


def over(first, *others):
  """Parametrises over fusions; all but the first are slow."""
  return pytest.mark.parametrize('fusion', [first, *map(checks.slow, others)])


# Outputs.


@over('concat', 'hidden', 'film')
def test_outputs_are_those_of_the_fusion_and_of_each_head(fusion):
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
    # Recompute the encoder layer by layer.
    hidden = batch[name]
    for layer in ('Dense_0', 'Dense_1'):
      hidden = np.maximum(dense(params[f'encoders_{name}'][layer], hidden), 0)
    close(features[name], hidden)
    close(logits[name], dense(params[f'heads_{name}'], features[name]))
  # The order of the modalities changes nothing.
  turned = model.clone(encoders=dict(reversed(model.encoders.items())))
  other = turned.apply(variables, batch)
  close({name: other[name] for name in logits}, logits)


@over('concat', 'hidden', 'film')
def test_shapley_logits_are_the_values_of_all_coalitions(fusion):
  for names in (TWO, ALL) if names_for(fusion) == ALL else (TWO,):
    model, batch = model_of(fusion, names, heads='shapley'), batch_of(names)
    variables = variables_of(model, batch)
    # The same number of parameters as a model without heads.
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
      """Fused logits of a coalition; the others have the features of zeros."""
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
  # In any order.
  shares = model.shares(variables, {n: features[n] for n in sorted(features)})
  assert set(shares) == set(WIDTHS)
  for name, share in shares.items():
    close(share, logits[name])


@over('concat', 'film', 'gated')
def test_logits_of_a_modality_alone_are_the_fusion_without_the_others(fusion):
  names = names_for(fusion)
  model = model_of(fusion, names, heads='alone')
  if fusion in ('film', 'gated'):
    message = 'multiplies features, .*Expected one width'
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(model.init, KEY, batch_of(names))
    encoders = {name: nn.MLP((5,)) for name in names}
    model = model.clone(encoders=encoders)
  batch = batch_of(names)
  variables = variables_of(model, batch)
  logits = model.apply(variables, batch)
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


# A user's own fusions.


class Own(flax.linen.Module):
  """A fusion with shares, which it doubles in training."""

  num_classes: int

  def __call__(self, features, train=False):
    return sum(self.shares(features).values()) * (2 if train else 1)

  def shares(self, features):
    return {
      name: jnp.tile(jnp.mean(value, 1, keepdims=True), self.num_classes)
      for name, value in features.items()
    }


def test_a_users_fusion_gets_features_and_train_and_may_have_shares():
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


# Refused inputs.


def test_impossible_models_and_inputs_are_refused():
  class Bare(flax.linen.Module):
    num_classes: int

    @flax.linen.compact
    def __call__(self, features):
      return flax.linen.Dense(self.num_classes)(features['text'])

  def init(model, batch):
    jax.eval_shape(model.init, KEY, batch)

  batch, two = batch_of(), batch_of(TWO)
  without = {name: value for name, value in batch.items() if name != 'text'}
  fused = nn.LateFusion({'fused': nn.MLP((3,)), 'audio': nn.MLP((3,))}, CLASSES)
  bare = model_of(kernel_init='he_normal').clone(fusion=Bare)
  shares = {'heads': 'share'}
  for message, model, inputs in (
    (r"frozen has \['face'\]; the modal", model_of(frozen=('face',)), batch),
    (r"lack \['text'\].*'visual'.*zeros", model_of(), without),
    ("modality is named 'fused'", fused, {'fused': rows(2, 3)}),
    ('no encoders; expected at least one', nn.LateFusion({}, CLASSES), {}),
    *(
      (
        rf"named \['audio_{word}'\], which are inputs beside",
        nn.LateFusion(
          {'audio': nn.MLP((3,)), f'audio_{word}': nn.MLP((3,))}, CLASSES
        ),
        {'audio': rows(2, 3), f'audio_{word}': rows(2, 3)},
      )
      for word in ('length', 'present')
    ),
    ("heads='none'; expected 'auxiliary'", model_of(heads='none'), batch),
    ('num_classes=0; expected a', model_of().clone(num_classes=0), batch),
    *(
      (
        rf'MLP was given widths={widths}; expected .* whole numbers at least 1',
        nn.LateFusion({'audio': nn.MLP(given)}, CLASSES),
        {'audio': rows(2, 3)},
      )
      for given, widths in (
        ((8, 0), r'\(8, 0\)'),
        ((-1,), r'\(-1,\)'),
        ((8.0,), r'\(8.0,\)'),
        ((True,), r'\(True,\)'),
        (8, '8'),
        ('8', "'8'"),
      )
    ),
    ('no such attribute', bare, batch),
    *(
      (f"kernel_init='{name}': expected", model_of(kernel_init=name), batch)
      for name in ('golorot', 'variance_scaling', 'zeros')
    ),
    (r'shares.*auxiliary', model_of('hidden', **shares), batch),
    (r'shares.*auxiliary', model_of('film', TWO, **shares), two),
    (r'shares.*auxiliary', model_of('gated', TWO, **shares), two),
  ):
    with pytest.raises(ValueError, match=message):
      init(model, inputs)
  model, features = model_of('hidden'), features_of()
  variables = variables_of(model, batch_of())
  with pytest.raises(ValueError, match=r"lack \['text'\]"):
    model.apply(variables, without, method='features')
  for call in (model.fuse, model.shares):
    with pytest.raises(
      ValueError, match=r"features lack \['audio'\]: expected"
    ):
      call(variables, {name: features[name] for name in ('visual', 'text')})
    with pytest.raises(ValueError, match=r"expected \{'params': parameters\}"):
      call(variables['params'], features)
  with pytest.raises(ValueError, match=r'hidden_widths=.*no shares'):
    model.shares(variables, features)
  film = model_of('film', TWO)
  with pytest.raises(ValueError, match=r'FiLMFusion has no method `shares`'):
    film.shares(variables_of(film, batch_of(TWO)), features)
