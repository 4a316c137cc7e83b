"""Training gives the same on one device or many, in all modes."""

import collections
import functools
import re
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import profiler
from jax.sharding import PartitionSpec

from experiments.configs import handwritten
from experiments.core import parts
from experiments.core import placement
from experiments.core import program
from experiments.core import training
from mimo_jax import nn

STEPS = 20
ROWS = 16
CHANNELS = 2  # with batch statistics
# For losses; for the Gramian; for the Gramian, with state.
RULES = {
  'mimo': {'name': 'mimo', 'penalty': 3.0, 'temperature': 0.3},
  'mgda': {'name': 'mgda'},
  'gradnorm': {'name': 'gradnorm'},
}
# A method with its own transformation, which draws noise.
METHODS = {'ogm_ge': {'name': 'ogm_ge', 'alpha': 0.5, 'noise': 0.1}}
# Every rule in every mode on 8 devices, and each rule once on 1 and 2.
CASES = [
  *((rule, mode, 8) for rule in RULES for mode in ('pmap', 'jit', 'fsdp')),
  ('mimo', 'pmap', 2),
  ('mgda', 'jit', 2),
  ('gradnorm', 'fsdp', 2),
  ('gradnorm', 'pmap', 1),
  ('mimo', 'jit', 1),
  ('mgda', 'fsdp', 1),
  ('ogm_ge', 'pmap', 2),
]


def config_of(rule='mimo', **changes):
  """A sound and a picture, one of whose encoders has batch statistics."""
  config = handwritten.get_config('two,smoke')
  with config.unlocked():
    config.model.encoders = {
      'picture': {'name': 'LeNet', 'base_width': CHANNELS, 'num_blocks': 1},
      'sound': {
        'name': 'MLP',
        'widths': (24,),
      },  # 256 x 24: large enough to shard
    }
    config.model.num_classes = 3
    if rule in METHODS:
      config.method = METHODS[rule]
    else:
      config.weighting = RULES[rule]
    for key, value in changes.items():
      config[key] = value
  return config


@functools.cache
def batches():
  """Makes rows whose means differ between devices."""
  random = np.random.RandomState(0)
  drift = np.linspace(-1, 2, ROWS, dtype=np.float32)
  return [
    {
      'picture': (
        random.standard_normal((ROWS, 6, 5, 1)) * 2 + drift[:, None, None, None]
      ).astype(np.float32),
      'sound': (
        random.standard_normal((ROWS, 256)) * 0.3 - 0.1 * drift[:, None]
      ).astype(np.float32),
      'label': np.digitize(drift, [-0.5, 1.2]).astype(np.int32),
    }
    for _ in range(STEPS)
  ]


class Made:
  """Makes a step on some devices, with a state and a batch placed there."""

  def __init__(self, config, mode, devices, rows=None):
    self.placement = placement.make(mode, jax.devices()[:devices])
    self.experiment = training.make(config, 10, self.placement)
    self.batch = self.placement.batch(rows or batches()[0])
    self.shapes = self.placement.shapes(
      self.experiment.init, jax.random.key(3), self.batch
    )
    self.step = self.placement.step(self.experiment.train_step, self.shapes)

  def init(self):
    key = jax.random.key(3)
    return self.placement.init(self.experiment.init, key, self.batch)


@functools.cache
def first_state(rule):
  """The step on one device, cached because compiling takes long."""
  return Made(config_of(rule), 'single', 1).init()


def started(rule, made):
  """Places a copy of a state, since a step donates it."""
  return made.placement.put(jax.tree.map(jnp.copy, first_state(rule)))


class Trained(NamedTuple):
  """Returns the results of the steps."""

  losses: list
  end: tuple  # params, statistics and weights
  program: str  # '' under pmap
  sharded: set  # paths of the state's arrays that are divided after a step


@functools.cache
def trained(rule, mode, devices):
  made = Made(config_of(rule), mode, devices)
  state, step = started(rule, made), made.step
  program, losses = '', []
  if mode in ('jit', 'fsdp') and devices == 8:  # compiled once
    compiled = step.__wrapped__.lower(state, made.batch).compile()
    program = compiled.as_text()

    def step(*given):
      return jax.block_until_ready(compiled(*given))

  for batch in batches():
    state, metrics = step(state, made.placement.batch(batch))
    losses.append(metrics['losses'])
  sharded = {
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree.leaves_with_path(state)
    if not leaf.sharding.is_fully_replicated
  }
  end = state.params, state.model_state, metrics['weights']
  return Trained(*jax.device_get((losses, end)), program, sharded)


@pytest.mark.parametrize(('rule', 'mode', 'devices'), CASES)
def test_every_mode_gives_the_training_of_one_device(rule, mode, devices):
  found, expected = trained(rule, mode, devices), trained(rule, 'single', 1)
  assert expected.losses[-1]['fused'] < 0.8 * expected.losses[0]['fused']
  chex.assert_trees_all_close(found.losses, expected.losses, rtol=0, atol=1e-5)
  chex.assert_trees_all_close(found.end, expected.end, rtol=0, atol=1e-4)


@pytest.mark.parametrize(('mode', 'devices'), [('pmap', 2), ('jit', 4)])
def test_batch_statistics_are_those_of_rows_with_the_modality(mode, devices):
  config = config_of()
  config.data.missing_rate = {'picture': 0.5}
  here = np.arange(ROWS) > ROWS // 2  # none on the first device
  batch = batches()[0] | {'picture_present': here}
  alone = {name: value[here] for name, value in batch.items()}
  ends = []
  for *where, given in (
    ('single', 1, batch),
    (mode, devices, batch),
    ('single', 1, alone),
    ('single', 1, batch | {'picture_present': ~here & here}),
  ):
    made = Made(config, *where, given)
    state = made.init()
    before = jax.device_get(state.model_state)
    state, _ = made.step(state, made.batch)
    ends.append(jax.device_get((state.params, state.model_state)))
  expected, found, (_, of_rows), (_, of_none) = ends
  chex.assert_trees_all_close(found, expected, rtol=0, atol=1e-5)
  chex.assert_trees_all_close(of_rows, expected[1], rtol=0, atol=1e-5)
  chex.assert_trees_all_equal(of_none, before)
  chex.assert_tree_all_finite(ends)


def test_fsdp_shards_large_parameters_and_keeps_them_sharded():
  made = Made(config_of(), 'fsdp', 8)
  state = made.init()
  kernel = state.params['encoders_sound']['Dense_0']['kernel']
  assert kernel.addressable_shards[3].data.shape == (32, 24)
  chex.assert_trees_all_close(
    state.params, first_state('mimo').params, rtol=0, atol=1e-6
  )
  # A parameter and its momentum.
  sharded = trained('mimo', 'fsdp', 8).sharded
  assert len(sharded) == 2
  assert all("['encoders_sound']['Dense_0']['kernel']" in at for at in sharded)
  assert not trained('mimo', 'jit', 8).sharded


def test_a_row_that_is_not_finite_skips_the_step_on_all_devices():
  made = Made(config_of('gradnorm'), 'fsdp', 8)
  bad = batches()[0]['sound'].copy()
  bad[13, 5] = np.nan
  batch = made.placement.batch(batches()[0] | {'sound': bad})
  before = first_state('gradnorm')
  state, _ = made.step(started('gradnorm', made), batch)
  balanced, guarded = state.opt_state
  assert int(guarded.total_notfinite) == 1
  chex.assert_trees_all_equal(
    (state.params, state.model_state, balanced),
    (before.params, before.model_state, before.opt_state[0]),
  )


def test_fsdp_shards_the_longest_divisible_axis():
  for shape, spec in (
    ((3, 3, 64, 128), (None, None, None, placement.AXIS)),
    ((128, 100), (placement.AXIS,)),
    ((1000, 64), (placement.AXIS,)),
    ((1001, 64), (None, placement.AXIS)),
    ((1001, 63), ()),  # no axis is divisible
    ((60, 64), ()),  # small
  ):
    found = placement.make('fsdp').shapes(lambda shape=shape: jnp.zeros(shape))
    assert found.sharding.spec == PartitionSpec(*spec), shape


# Communication.

COLLECTIVE = re.compile(
  r' = (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all'
  r'|collective-permute|collective-broadcast)(?:-start)?\('
)


def traffic(program):
  """Returns collective -> how many, and how many numbers they return."""
  counts, numbers = collections.Counter(), collections.Counter()
  for line in program.splitlines():
    if found := COLLECTIVE.search(line):
      result, kind = found.groups()
      counts[kind] += 1
      for shape in re.findall(r'[a-z]\w*\[([\d,]*)\]', result):
        numbers[kind] += int(np.prod([int(n) for n in shape.split(',') if n]))
  return counts, numbers


def sizes_of_params():
  return {
    name: sum(leaf.size for leaf in jax.tree.leaves(tree))
    for name, tree in first_state('mimo').params.items()
  }


@pytest.mark.parametrize('mode', ['jit', 'fsdp'])
def test_mimo_sends_what_joint_training_sends(mode):
  counts, numbers = traffic(trained('mimo', mode, 8).program)
  config = config_of(weighting={'name': 'joint'})
  joint = Made(config, mode, 8)
  program = (
    joint.step.__wrapped__.lower(joint.shapes, joint.batch).compile().as_text()
  )
  joint_counts, joint_numbers = traffic(program)
  assert sum(numbers.values()) <= sum(joint_numbers.values()) + 3 + 8
  assert sum(counts.values()) <= sum(joint_counts.values()) + 1
  # This is the minimum: a gradient, K losses, two averages of each channel, and
  # a sum in the backward pass.
  least = sum(sizes_of_params().values()) + 3 + 3 * CHANNELS
  assert joint_numbers['all-reduce'] == least
  assert joint_numbers['all-gather'] == (256 * 24 if mode == 'fsdp' else 0)
  assert set(numbers) | set(joint_numbers) <= {'all-reduce', 'all-gather'}


def test_a_gramian_under_fsdp_costs_k_by_k_numbers_besides_the_gradients():
  _, numbers = traffic(trained('mgda', 'fsdp', 8).program)
  sizes = sizes_of_params()
  # Rows: of the fused loss, and of both modalities together. Averages of a
  # channel once; its sum in the backward pass for each of two losses.
  fused = sum(sizes[k] for k in sizes if not k.startswith('heads_'))
  modalities = sum(sizes[k] for k in sizes if k != 'fusion')
  besides = numbers['all-reduce'] - fused - modalities - 4 * CHANNELS - 3
  assert 9 <= besides <= 9 + 2
  assert numbers['all-gather'] == 256 * 24
  assert set(numbers) == {'all-reduce', 'all-gather'}


HOST = re.compile(
  r'DevicePut|_callback|copy_to_host|np\.asarray\(jax|infeed|outfeed'
)


def host_transfers(directory, function, *arguments):
  """Returns the transfers in a profile while a function runs."""
  with profiler.trace(directory):
    jax.block_until_ready(function(*arguments))
  (path,) = directory.glob('plugins/profile/*/*.xplane.pb')
  names = [
    event.name
    for plane in profiler.ProfileData.from_file(str(path)).planes
    for line in plane.lines
    for event in line.events
  ]
  return {name for name in names if HOST.search(name)}


def test_a_profile_of_a_step_shows_no_transfer_to_or_from_the_host(tmp_path):
  made = Made(config_of(), 'jit', 8)
  state = started('mimo', made)
  state, metrics = jax.block_until_ready(made.step(state, made.batch))
  with jax.transfer_guard('disallow'):
    state, metrics = made.step(state, made.batch)
    assert not host_transfers(tmp_path / 'step', made.step, state, made.batch)
  # A profile would show them.
  one = jax.block_until_ready(jnp.ones(8))
  calling = jax.jit(lambda x: jax.pure_callback(np.negative, one, x))
  for number, arguments in enumerate(
    [(calling, one), (jax.jit(jnp.sin), np.ones(8)), (jax.device_get, metrics)]
  ):
    assert host_transfers(tmp_path / str(number), *arguments)
  # The program has none either, on any device.
  host = r'infeed|outfeed|callback|\bsend|\brecv|S\(5\)'
  assert not re.search(host, trained('mimo', 'jit', 8).program)
  assert re.search(host, calling.lower(one).compile().as_text())


# Refused inputs.


def test_impossible_modes_batches_and_methods_are_refused():
  with pytest.raises(ValueError, match=r"'ddp'; expected one of.*'fsdp'"):
    placement.make('ddp')
  with pytest.raises(ValueError, match=r'batch_size is 20.*8 devices'):
    program.alone(config_of(data={'batch_size': 20}, parallel='jit'), 10)
  for method, message in (
    ('pmr', "'pmr' rehearses"),
    ('agm', "'agm' is not known to be a mean over rows"),
  ):
    with pytest.raises(ValueError, match=message):
      Made(config_of(method={'name': method}), 'pmap', 2)


def test_pmap_refuses_random_draws():
  def step(dropout):
    config = config_of()
    config.model.encoders.sound = {
      'name': 'Transformer',
      'width': 4,
      'num_layers': 1,
      'num_heads': 2,
      'feedforward_width': 4,
      'dropout': dropout,
    }
    devices = placement.make('pmap')
    experiment = training.make(config, 10, devices)
    rows = batches()[0]['sound'].reshape(ROWS, 32, 8)
    batch = batches()[0] | {'sound': rows}
    state = jax.eval_shape(experiment.init, jax.random.key(0), batch)
    return devices.step(experiment.train_step, state)(state, batch)

  with pytest.raises(ValueError, match=r"'weighted' draws random numbers"):
    step(0.5)


def test_pmap_refuses_batch_statistics_of_single_devices():
  class Normalised(linen.Module):
    @linen.compact
    def __call__(self, inputs, *, train=False):
      return linen.BatchNorm(use_running_average=not train)(inputs)

  encoders = {'sound': Normalised(), 'picture': nn.LeNet(2, 2)}
  model = parts.with_axis(nn.LateFusion(encoders, 3), 'device')
  assert model.encoders['picture'].axis_name == 'device'
  state = jax.eval_shape(model.init, jax.random.key(0), batches()[0])
  with pytest.raises(ValueError, match=r"\['encoders_sound'\] keep 'batch_st"):
    parts.check_statistics(model, {'batch_stats': state['batch_stats']})
