"""Initial parameters, frozen parts, and learning rates of parts."""

import functools
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from experiments import train
from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import exporting
from experiments.core import placement
from experiments.core import trained
from experiments.core import training
from tests import checks
from tests import running
from tests.running import smoke


@functools.cache
def stepped(
  parallel='single', steps=3, words='two,smoke', values=(), **changes
):
  """Returns a state before and after some steps."""
  config = handwritten.get_config(words)
  config = configuration.with_values(config, dict(values))
  config.update(changes)
  place = placement.make(parallel)
  batches = [*map(place.batch, running.batches_of(config, 0, steps))]
  experiment = training.make(config, 15, place)
  key = jax.random.key(0)
  before = state = place.init(experiment.init, key, batches[0])
  step = place.step(experiment.train_step, state, donate=False)
  for batch in batches:
    state, _ = step(state, batch)
  return before, state


# An encoder and parts of another one are frozen; one module learns slower.
CHANGES = {
  'frozen': ('encoders_fou', 'encoders_pix/*/bias'),
  'learning_rates': ('fusion=0.3',),
}


def test_frozen_parameters_do_not_move_and_have_no_optimizer_state():
  before, after = stepped(**CHANGES)
  moved = running.moved(before.params, after.params)
  assert not any(jax.tree.leaves(moved['encoders_fou']))
  for layer in moved['encoders_pix'].values():
    assert layer == {'bias': False, 'kernel': True}
  assert all(jax.tree.leaves(moved['fusion']))
  _, plain = stepped(steps=1)
  size = sum(leaf.size for leaf in jax.tree.leaves(before.params))
  still = jax.tree.leaves(before.params['encoders_fou'])
  still += [x['bias'] for x in before.params['encoders_pix'].values()]
  without = sum(leaf.size for leaf in still)
  momentum, whole = (
    sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    for state in (after, plain)
  )
  assert whole - momentum == without and 0 < without < size


@pytest.mark.parametrize(
  ('words', 'passes'), [('two,joint,smoke', 1), ('two,mgda,smoke', 2)]
)
def test_frozen_encoders_cost_no_backward_pass(words, passes):
  """Two of MGDA's three passes go through an encoder: fused and its own."""
  flops = []
  for frozen in ((), ('encoders_fou',)):
    config = handwritten.get_config(words)
    config.frozen = frozen
    (batch,) = running.batches_of(config, 0, 1)
    experiment = training.make(config, 15)
    state = jax.eval_shape(experiment.init, jax.random.key(0), batch)
    step = jax.jit(experiment.train_step).lower(state, batch)
    flops.append(step.cost_analysis()['flops'])
  rows, features = batch['fou'].shape
  (width,) = config.model.encoders.fou.widths
  assert flops[0] - flops[1] > passes * 2 * rows * features * width


@pytest.mark.parametrize('parallel', ['jit', 'fsdp', 'pmap'])
def test_devices_freeze_alike(parallel):
  _, alone = stepped(**CHANGES)
  _, found = stepped(parallel, **CHANGES)
  checks.assert_close(found.params, alone.params, rtol=1e-7, atol=1e-5)


def rehearsed(recipe, frozen):
  """Returns a state before and after the rehearsal before training."""
  config = handwritten.get_config(f'two,smoke,{recipe}')
  config.update({'frozen': frozen, 'weight_decay': 0.1})
  (batch,) = running.batches_of(config, 0, 1)
  experiment = training.make(config, 15)
  walks = experiment.rehearsal
  (walk,) = walks.passes

  @jax.jit
  def all_of_it(batch):
    state = experiment.init(jax.random.key(0), batch)
    scratch = walk.step(state, walks.begin(state, batch), batch)
    return state, walks.end(state, scratch)

  return all_of_it(batch)


@pytest.mark.parametrize('frozen', ['encoders_fou', 'encoders_fou/*/kernel'])
def test_frozen_parameters_do_not_move_in_rehearsals_either(frozen):
  """Weight decay does not move them in the copies that learn there."""
  before, after = rehearsed('pretrained_finetuned', (frozen,))
  moved = running.moved(before.params, after.params)
  assert all(jax.tree.leaves(moved['encoders_pix']))
  for layer in moved['encoders_fou'].values():
    assert layer == {'kernel': False, 'bias': frozen.endswith('kernel')}


def test_teachers_of_a_frozen_encoder_learn():
  """They begin at random, so without learning they would know nothing."""
  _, whole = rehearsed('umt', ())
  _, part = rehearsed('umt', ('encoders_fou',))
  checks.assert_equal(part.memory, whole.memory)


@pytest.mark.parametrize(
  ('recipe', 'values'),
  [
    pytest.param('aug', {'method.max_branches': 2}, marks=pytest.mark.slow),
    ('mla', {}),
  ],
)
def test_an_encoder_can_be_frozen_if_encoders_learn_in_turn(recipe, values):
  changes = {'values': tuple(values.items()), 'frozen': ('encoders_fou',)}
  before, after = stepped(steps=1, words=f'two,smoke,{recipe}', **changes)
  moved = running.moved(before.params, after.params)
  assert not any(jax.tree.leaves(moved['encoders_fou']))
  assert all(jax.tree.leaves(moved['encoders_pix']))


def test_a_rule_sees_only_gradients_of_parameters_that_learn():
  """MGDA of two objectives, each with a gradient in one encoder only."""
  changes = {'steps': 1, 'words': 'two,smoke,mgda'}
  _, whole = stepped(**changes)
  _, part = stepped(frozen=('encoders_pix', 'heads_pix', 'fusion'), **changes)
  weights = [np.asarray(state.opt_state[0].weights) for state in (whole, part)]
  # pix has no gradient there, so it counts as absent.
  assert weights[1][2] == 0 and weights[0][2] > 0


def test_the_first_matching_pattern_gives_the_factor_of_a_learning_rate():
  rates = ('encoders_fou/Dense_0=0', 'encoders_*=0.25')
  before, slow = stepped(steps=1, learning_rates=rates)
  _, plain = stepped(steps=1)
  moves = [
    jax.tree.map(np.subtract, state.params, before.params)
    for state in (slow, plain)
  ]
  slower, plainly = moves
  for name, factor in (('encoders_pix', 0.25), ('fusion', 1), ('heads_fou', 1)):
    expected = jax.tree.map(lambda x, by=factor: by * x, plainly[name])
    checks.assert_close(slower[name], expected, rtol=1e-3, atol=1e-7)
    assert all(map(np.any, jax.tree.leaves(expected)))
  assert not np.any(slower['encoders_fou']['Dense_0']['kernel'])


def test_an_encoder_is_any_module_that_can_be_imported():
  own = {'name': 'flax.linen:Dense', 'features': 7}
  config = smoke()
  with config.unlocked():
    config.model.encoders.fou = own
  model = training.make_model(config.model)
  assert model.encoders['fou'].features == 7
  for name, message in (
    ('flax.linnen:Dense', "'flax.linnen' cannot be imported"),
    ('flax.linen:Dens', "flax.linen has no 'Dens'"),
  ):
    config.model.encoders.fou.name = name
    with pytest.raises(ValueError, match=message):
      training.make_model(config.model)


def test_errors_name_wrong_patterns_and_entries(tmp_path):
  for changes, message in (
    ({'frozen': ('encoder_fou',)}, "config.frozen has 'encoder_fou'.*'heads_p"),
    ({'frozen': ('*',)}, 'which matches all parameters'),
    ({'learning_rates': ('fusoin=1',)}, "learning_rates has 'fusoin'"),
    (
      {'learning_rates': ('fusion',)},
      "has 'fusion'; expected 'PATTERN=FACTOR'",
    ),
    ({'learning_rates': ('fusion=-1',)}, "expected 'PATTERN=FACTOR'"),
    ({'warm_start': ('fusion',)}, "has 'fusion'; expected 'MODULE=PATH'"),
  ):
    with pytest.raises(ValueError, match=message):
      stepped(steps=1, **changes)
  with pytest.raises(FileNotFoundError, match='no file of parameters'):
    stepped(steps=1, warm_start=(f'fusion={tmp_path}/a.safetensors',))


@pytest.mark.parametrize('recipe', ['umt', 'smp'])
def test_teachers_begin_with_what_the_model_is_given(tmp_path, recipe):
  config = configuration.with_recipe(smoke(), recipe)
  _, state, _ = running.begun(config)
  path = tmp_path / 'pix.safetensors'
  kernel, bias = (
    np.asarray(state.params['encoders_pix']['Dense_0'][name]) + 1
    for name in ('kernel', 'bias')
  )
  safetensors.save_file({'Dense_0.kernel': kernel, 'Dense_0.bias': bias}, path)
  config.warm_start = (f'encoders_pix={path}',)
  experiment, state, batch = running.begun(config)
  taught = experiment.rehearsal.begin(state, batch).copy.params
  found = taught['encoders_pix']['Dense_0']
  np.testing.assert_array_equal(found['kernel'], kernel)
  np.testing.assert_array_equal(found['bias'], bias)
  own, other = (
    one['encoders_fou']['Dense_0']['kernel'] for one in (state.params, taught)
  )
  assert np.all(own != other)


def test_a_run_can_begin_with_the_parameters_of_another(tmp_path, finished):
  shutil.copytree(finished[0], tmp_path / 'first')
  changes = {
    'warm_start': (f'encoders_pix={tmp_path}/first',),
    'frozen': ('encoders_pix',),
    'seed': 5,
    'steps': 2,
  }
  with pytest.raises(FileNotFoundError, match='export'):
    train.train(smoke(**changes), tmp_path / 'second')
  first = trained.load(tmp_path / 'first')
  exporting.export(first, tmp_path / 'first' / 'export')
  train.train(smoke(**changes), tmp_path / 'second')
  path = tmp_path / 'first' / 'export' / 'params.safetensors'
  kernel = safetensors.load_file(path)['params.encoders_pix.Dense_0.kernel']
  path.unlink()  # the run has a copy
  second = trained.load(tmp_path / 'second')
  found = second.state.params
  np.testing.assert_array_equal(
    found['encoders_pix']['Dense_0']['kernel'], kernel
  )
  other = first.state.params['encoders_fou']['Dense_0']['kernel']
  assert np.any(found['encoders_fou']['Dense_0']['kernel'] != other)
