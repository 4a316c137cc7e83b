"""One training, on one device or many, in one process or several."""

import collections
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import running
from flax import linen
from jax import profiler
from jax.sharding import PartitionSpec

from experiments import parallel
from experiments import parts
from experiments import train
from experiments import training
from experiments.configs import handwritten
from mimo_jax import nn

STEPS = 50
ROWS = 16
# Needs losses; needs a Gramian; remembers, and needs a Gramian; remembers, and
# needs losses.
RULES = {
  'mimo': {'name': 'mimo', 'penalty': 3.0, 'temperature': 0.3},
  'mgda': {'name': 'mgda'},
  'gradnorm': {'name': 'gradnorm'},
  'uw': {'name': 'uw'},
}
LAYOUTS = [
  *((mode, 8) for mode in ('pmap', 'jit', 'fsdp')),
  *((mode, 2) for mode in ('pmap', 'jit', 'fsdp')),
]


def config_of(rule='mimo', **changes):
  """A sound and a picture, of which one encoder has batch statistics."""
  config = handwritten.get_config('two,smoke')
  with config.unlocked():
    config.model.encoders = {
      'picture': {'name': 'LeNet', 'base_width': 2, 'num_blocks': 2},
      'sound': {'name': 'MLP', 'widths': (24,)},  # 256 x 24: worth dividing
    }
    config.model.num_classes = 3
    config.weighting = RULES[rule]
    for key, value in changes.items():
      if key == 'model':
        config.model.update(value)
      else:
        config[key] = value
  return config


@functools.cache
def batches():
  """Rows of different means on different devices."""
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
  """A compiled step on some devices, and its first state and batch."""

  def __init__(self, config, mode, devices, batch=None):
    self.layout = parallel.make_layout(mode, jax.devices()[:devices])
    self.experiment = training.make(config, 10, self.layout)
    self.batch = parallel.train_batch(self.layout, batch or batches()[0])
    key = jax.random.key(3)
    self.shapes = parallel.state_shapes(
      self.layout, self.experiment.init, key, self.batch
    )
    init = parallel.compile_init(self.layout, self.experiment.init, self.shapes)
    self.state = init(key, self.batch)
    self.step = parallel.compile_step(
      self.layout, self.experiment.train_step, self.shapes
    )

  def program(self):
    return self.step.lower(self.state, self.batch).compile().as_text()


def trained(rule, mode, devices):
  """Losses of all steps; the last params, statistics and weights."""
  made = Made(config_of(rule), mode, devices)
  state, losses = made.state, []
  for batch in batches():
    state, metrics = made.step(state, parallel.train_batch(made.layout, batch))
    losses.append(metrics['losses'])
  return jax.device_get(
    (losses, (state.params, state.model_state, metrics['weights']))
  )


alone = functools.cache(functools.partial(trained, mode='single', devices=1))


@pytest.mark.parametrize('rule', ['mimo', 'mgda', 'gradnorm'])
@pytest.mark.parametrize(('mode', 'devices'), LAYOUTS)
def test_every_mode_gives_the_training_of_one_device(rule, mode, devices):
  losses, state = trained(rule, mode, devices)
  expected_losses, expected = alone(rule)
  assert expected_losses[-1]['fused'] < 0.8 * expected_losses[0]['fused']
  chex.assert_trees_all_close(losses, expected_losses, rtol=0, atol=1e-5)
  chex.assert_trees_all_close(state, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('mode', ['pmap', 'jit', 'fsdp'])
def test_on_one_device_every_mode_is_the_single_one(mode):
  losses, state = trained('mimo', mode, 1)
  expected_losses, expected = alone('mimo')
  chex.assert_trees_all_close(losses, expected_losses, rtol=0, atol=1e-6)
  chex.assert_trees_all_close(state, expected, rtol=0, atol=1e-6)


def test_fsdp_divides_what_is_large_and_keeps_it_divided():
  made = Made(config_of(), 'fsdp', 8)
  state, _ = made.step(made.state, made.batch)
  params, momentum = state.params, optax.tree.get(state.opt_state, 'trace')
  for tree in (params, momentum):
    kernel = tree['encoders_sound']['Dense_0']['kernel']
    assert kernel.sharding.spec == PartitionSpec(parallel.AXIS)
    assert kernel.addressable_shards[3].data.shape == (32, 24)
    bias = tree['encoders_sound']['Dense_0']['bias']
    assert bias.sharding.is_fully_replicated


@pytest.mark.parametrize(
  ('shape', 'spec'),
  [
    ((3, 3, 64, 128), (None, None, None, parallel.AXIS)),
    ((128, 100), (parallel.AXIS,)),
    ((1000, 64), (parallel.AXIS,)),
    ((1001, 64), (None, parallel.AXIS)),
    ((1001, 63), ()),  # nothing to divide evenly
    ((60, 64), ()),  # small
  ],
)
def test_fsdp_divides_the_longest_axis_that_can_be(shape, spec):
  layout = parallel.make_layout('fsdp')
  found = parallel.state_shapes(layout, lambda: jnp.zeros(shape))
  assert found.sharding.spec == PartitionSpec(*spec)


# What crosses the network.

COLLECTIVE = re.compile(
  r' = (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all'
  r'|collective-permute|collective-broadcast)(?:-start)?\('
)


def traffic(program):
  """Collective -> how many there are, and how many numbers they return."""
  counts, numbers = collections.Counter(), collections.Counter()
  for line in program.splitlines():
    if found := COLLECTIVE.search(line):
      result, kind = found.groups()
      counts[kind] += 1
      for shape in re.findall(r'[a-z]\w*\[([\d,]*)\]', result):
        numbers[kind] += int(np.prod([int(n) for n in shape.split(',') if n]))
  return counts, numbers


def counted(mode, rule, **changes):
  made = Made(config_of(rule, **changes), mode, 8)
  sizes = {
    name: sum(leaf.size for leaf in jax.tree.leaves(tree))
    for name, tree in made.state.params.items()
  }
  return *traffic(made.program()), sizes


@pytest.mark.parametrize('mode', ['jit', 'fsdp'])
def test_mimo_sends_what_joint_training_sends(mode):
  joint_counts, joint, sizes = counted(
    mode, 'mimo', weighting={'name': 'sum'}, model={'detach_heads': True}
  )
  counts, numbers, _ = counted(mode, 'mimo')
  # The least there is: a gradient and K losses, and two averages of each
  # channel in each direction.
  statistics = 4 * (2 + 4)
  assert joint['all-reduce'] == sum(sizes.values()) + 3 + statistics
  assert sum(numbers.values()) <= sum(joint.values()) + 3 + 8
  assert sum(counts.values()) <= sum(joint_counts.values()) + 1
  assert numbers['all-gather'] == (256 * 24 if mode == 'fsdp' else 0)
  assert set(numbers) <= {'all-reduce', 'all-gather'}


def test_a_gramian_under_fsdp_costs_k_by_k_numbers_besides_the_gradients():
  _, numbers, sizes = counted('fsdp', 'mgda')
  of_fused = sum(
    size for name, size in sizes.items() if not name.startswith('heads_')
  )
  of_modalities = sum(size for name, size in sizes.items() if name != 'fusion')
  statistics = 2 * (2 + 4) + 2 * 2 * (2 + 4)  # of two losses that have some
  least = of_fused + of_modalities + 3 + statistics
  assert least + 9 <= numbers['all-reduce'] <= least + 9 + 8
  assert numbers['all-gather'] == 256 * 24
  assert set(numbers) == {'all-reduce', 'all-gather'}


HOST = re.compile(
  r'DevicePut|shard_args|[a-z_]+_callback|copy_to_host|np\.asarray\(jax'
  r'|infeed|outfeed|TransferTo|TransferFrom|BufferFromHost',
  re.IGNORECASE,
)


def host_transfers(directory, function, *arguments):
  """What a profile shows of transfers, while a function runs."""
  with profiler.trace(directory):
    jax.block_until_ready(function(*arguments))
  (path,) = directory.glob('plugins/profile/*/*.xplane.pb')
  names = [
    event.name
    for plane in profiler.ProfileData.from_file(str(path)).planes
    for line in plane.lines
    for event in line.events
  ]
  assert any('Execute' in name for name in names)
  return {name for name in names if HOST.search(name)}


def test_a_profile_of_a_step_shows_no_transfer_to_or_from_the_host(tmp_path):
  made = Made(config_of(), 'jit', 8)
  state, metrics = jax.block_until_ready(made.step(made.state, made.batch))
  with jax.transfer_guard('disallow'):
    state, metrics = made.step(state, made.batch)
    assert not host_transfers(tmp_path / 'step', made.step, state, made.batch)
  # It would show them.
  one = jnp.float32(1)
  calling = jax.jit(lambda x: jax.pure_callback(np.negative, one, x))
  assert host_transfers(tmp_path / 'callback', calling, one)
  assert host_transfers(tmp_path / 'in', calling, np.float32(2))
  assert host_transfers(tmp_path / 'out', jax.device_get, metrics)
  # Nor does the program, on any kind of device.
  host = r'infeed|outfeed|callback|send|recv|S\(5\)'
  assert not re.search(host, made.program())
  assert re.search(host, calling.lower(one).compile().as_text())


# What is refused.


def test_an_unknown_mode_is_refused():
  with pytest.raises(ValueError, match=r"'ddp'; expected one of.*'fsdp'"):
    parallel.make_layout('ddp')


def test_batches_that_devices_cannot_share_are_refused():
  with pytest.raises(ValueError, match=r'batch_size is 20.*8 devices'):
    parallel.check_batch_size(parallel.make_layout('jit'), 20)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'method': {'name': 'pmr'}}, "'pmr' rehearses"),
    ({'method': {'name': 'agm'}}, "'agm' is not known to be a mean over rows"),
  ],
)
def test_pmap_refuses_methods_that_see_whole_batches(changes, message):
  with pytest.raises(ValueError, match=message):
    Made(config_of(**changes), 'pmap', 2)


def test_pmap_refuses_what_is_drawn():
  config = config_of()
  config.model.encoders.picture = {
    'name': 'Transformer',
    'width': 4,
    'num_layers': 1,
    'num_heads': 2,
    'feedforward_width': 4,
    'dropout': 0.5,
  }
  batch = batches()[0] | {'picture': batches()[0]['picture'][..., 0]}
  made = Made(config, 'pmap', 2, batch)
  with pytest.raises(ValueError, match=r"'weighted' draws random numbers"):
    made.step(made.state, made.batch)


def test_pmap_refuses_statistics_that_each_device_would_keep():
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


# Several processes.

CONFIG = 'experiments/configs/handwritten.py:two,smoke'


def steps_saved(workdir):
  steps = [
    int(path.name.split('.')[0])
    for path in (workdir / 'checkpoints').glob('[0-9]*')
    if path.name.isdigit()
  ]
  return max(steps, default=-1)


def arrays_of(workdir, config):
  arrays, progress = running.final_arrays(workdir, config)
  return arrays._replace(opt_state=()), progress


def test_processes_killed_end_as_one_undisturbed(tmp_path):
  config = handwritten.get_config('two,smoke')
  config.steps, config.checkpoint_every_steps = 40, 10
  config.parallel = 'fsdp'
  config.model.encoders.fou.widths = (64,)  # 76 x 64: worth dividing
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  train.train(config, whole)

  arguments = [
    f'--config={CONFIG}',
    '--config.steps=40',
    '--config.parallel=fsdp',
    '--config.model.encoders.fou.widths=(64,)',
    f'--workdir={killed}',
  ]
  two = {'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  four = {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}

  def start():
    return running.start_processes(arguments, 2, two)

  ((code, error, seconds),) = running.kill_some_when(
    start(), [1], lambda: steps_saved(killed) >= 10
  )
  assert code != 0
  assert 'Process 0 of 2 stops' in error or 'another task died' in error
  assert seconds < 60
  first = steps_saved(killed)
  assert 10 <= first < 40
  running.kill_some_when(start(), [0, 1], lambda: steps_saved(killed) > first)
  assert first < steps_saved(killed) < 40
  finished = running.run('train', *arguments, env=four)
  assert finished.returncode == 0, finished.stderr

  ours, theirs = arrays_of(killed, config), arrays_of(whole, config)
  assert int(ours[0].step) == 40
  chex.assert_trees_all_close(ours[0], theirs[0], rtol=0, atol=1e-5)
  rows, expected = ours[1]['metrics'][1:], theirs[1]['metrics'][1:]
  chex.assert_trees_all_close(rows, expected, rtol=0, atol=1e-5)
