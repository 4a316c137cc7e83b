"""The training step, which all runners share."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs import crema_d
from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import program
from experiments.core import together
from experiments.core import training
from mimo_jax.nn.encoders import _resnet
from tests import running
from tests.running import smoke

CONFIG = 'experiments/configs/handwritten.py'


@pytest.fixture(scope='module')
def begun():
  """An experiment, its state, its step (traced once), and batches."""
  config = smoke(optimizer={'learning_rate': 0.1, 'momentum': 0.0})
  config.weighting.update({'penalty': 2.0, 'temperature': 0.3})
  experiment = training.make(config, 15)
  batches = running.batches_of(config, 3, 5)
  state = jax.jit(experiment.init)(jax.random.key(7), batches[0])
  step = jax.jit(chex.assert_max_traces(experiment.train_step, n=1))
  return experiment, state, step, batches


def test_the_step_equals_the_one_by_hand(begun):
  experiment, state, step, (batch, *_) = begun

  def objective(params):
    logits = experiment.model.apply({'params': params}, batch)
    losses = {
      name: -jnp.mean(
        jnp.take_along_axis(
          jax.nn.log_softmax(value), batch['label'][:, None], 1
        )
      )
      for name, value in logits.items()
    }
    modality = jnp.stack([losses['fou'], losses['pix']])
    smooth = 0.3 * jax.nn.logsumexp(modality / 0.3)
    return losses['fused'] + 2.0 * smooth

  gradient = jax.jit(jax.grad(objective))(state.params)
  expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
  after, metrics = step(state, batch)
  chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-6)
  assert int(after.step) == 1
  assert metrics['weights']['fused'] == 1
  modality_weights = metrics['weights']['fou'] + metrics['weights']['pix']
  np.testing.assert_allclose(modality_weights, 2.0, rtol=1e-6)


def test_optimizers_that_need_more_than_gradients_are_refused(begun):
  _, _, _, (batch, *_) = begun
  changes = {'optimizer': {'name': 'polyak_sgd'}}
  config = configuration.with_values(smoke(), changes)
  experiment = training.make(config, 15)
  state = jax.eval_shape(experiment.init, jax.random.key(7), batch)
  with pytest.raises(ValueError, match=r"'polyak_sgd'.*gradients and params"):
    jax.eval_shape(experiment.train_step, state, batch)
  config = smoke(gradient_transforms=('clip',))
  with pytest.raises(ValueError, match=r"gradient_transforms has 'clip'.*name"):
    training.make(config, 15)


def test_arguments_of_a_wrong_type_are_refused_by_the_model(begun):
  _, _, _, (batch, *_) = begun
  for encoder, message in (
    ({'name': 'MLP', 'widths': ('abc',)}, r"MLP was given widths=\('abc',\)"),
    # A module of one's own, which checks nothing.
    (
      {'name': 'flax.linen:Dense', 'features': 'abc'},
      r"config\.model has .*'abc'",
    ),
  ):
    changes = {'model.encoders.fou': encoder}
    config = configuration.with_values(smoke(), changes)
    experiment = training.make(config, 15)
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(experiment.init, jax.random.key(7), batch)


def test_steps_compile_once(begun):
  _, state, step, batches = begun
  for batch in batches:
    state, _ = step(state, batch)
  assert int(state.step) == 5


def test_seeds_under_vmap_are_the_runs_one_by_one():
  # An iterative rule, which stops after other numbers of steps in each.
  config = configuration.with_recipe(smoke(), 'mgda')
  experiment = training.make(config, 15)
  seeds = [2, 9]
  data_of = {seed: running.batches_of(config, seed, 4) for seed in seeds}
  alone = []
  init, step = jax.jit(experiment.init), jax.jit(experiment.train_step)
  for seed in seeds:
    state = init(jax.random.key(seed), data_of[seed][0])
    for batch in data_of[seed]:
      state, _ = step(state, batch)
    alone.append(state.params)
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  stacked = program.stack([program.stack(data_of[seed]) for seed in seeds])
  first = jax.tree.map(lambda leaf: leaf[:, 0], stacked)
  states = jax.jit(jax.vmap(experiment.init))(keys, first)
  states, metrics = jax.jit(
    jax.vmap(lambda s, b: jax.lax.scan(experiment.train_step, s, b))
  )(states, stacked)
  for i in range(len(seeds)):
    together = jax.tree.map(lambda leaf, i=i: leaf[i], states.params)
    chex.assert_trees_all_close(together, alone[i], rtol=2e-4, atol=2e-5)
  assert metrics['losses']['fused'].shape == (2, 4)


def test_joint_training_moves_encoders_and_fusion_as_fused_only():
  results = []
  for recipe in ('joint', 'fused_only'):
    config = configuration.with_recipe(smoke(), recipe)
    experiment, state, _ = running.begun(config, 1)
    start, step = state.params, jax.jit(experiment.train_step)
    for batch in running.batches_of(config, 1, 6):
      state, _ = step(state, batch)
    results.append(state.params)
  moved = running.moved(start, results[0])
  for part in start:
    assert all(jax.tree.leaves(moved[part])), part
    if not part.startswith('heads'):
      chex.assert_trees_all_close(
        results[0][part], results[1][part], rtol=1e-5, atol=1e-7
      )


def test_a_batch_that_is_not_finite_changes_only_the_counters(begun):
  _, state, step, (good, *_) = begun
  state, _ = step(state, good)
  bad = good | {'pix': np.full_like(good['pix'], np.nan)}
  after, metrics = step(state, bad)
  chex.assert_trees_all_equal(after.params, state.params)
  assert np.isnan(metrics['losses']['fused'])
  assert int(optax.tree.get(after.opt_state, 'notfinite_count')) == 1
  np.testing.assert_array_equal(
    optax.tree.get(after.opt_state, 'weights'),
    optax.tree.get(state.opt_state, 'weights'),
  )


def assert_steps(config, batch, methods):
  """Checks that steps and rehearsals keep shapes, without compiling."""
  for method in methods:
    experiment = training.make(configuration.with_recipe(config, method), 15)
    init = jax.eval_shape(experiment.init, jax.random.key(0), batch)
    after, metrics = jax.eval_shape(experiment.train_step, init, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, init)
    assert metrics['losses'].keys() >= {'fused', *config.model.encoders}
    if (rehearsal := experiment.rehearsal) is not None:
      scratch = jax.eval_shape(rehearsal.begin, init, batch)
      for one in rehearsal.passes:
        walked = jax.eval_shape(one.step, init, scratch, batch)
        chex.assert_trees_all_equal_shapes_and_dtypes(walked, scratch)
      ended = jax.eval_shape(rehearsal.end, init, scratch)
      chex.assert_trees_all_equal_shapes_and_dtypes(ended, init)


@pytest.mark.parametrize('arg', ['six', 'three'])
def test_every_configuration_can_take_a_step_with_every_method(arg):
  config = handwritten.get_config(arg)
  for word in ('Reference:', 'Command:', 'Expected:'):
    assert word in handwritten.__doc__
  batch = running.batches_of(config, 0, 1)[0]
  with config.unlocked():
    config.recipes.aug.method.max_branches = 2
  few = ('joint', 'mgda', 'mmpareto')
  assert_steps(config, batch, config.recipes if arg == 'three' else few)


def test_every_method_can_take_a_step_on_crema_d(monkeypatch):
  """With convolutions, batch statistics and videos."""
  monkeypatch.setattr(_resnet, '_encoded', running.one_block)
  batch = {
    'audio': np.zeros((4, 4, 4, 1), np.float32),
    'visual': np.zeros((4, 2, 32, 32, 3), np.uint8),
    'label': np.arange(4) % 6,
  }
  config = crema_d.get_config('smoke')
  small = {'name': 'LeNet', 'base_width': 2, 'num_blocks': 1}
  config.model.encoders.audio = small  # a ResNet takes longer to trace
  with config.unlocked():
    config.recipes.aug.method.max_branches = 2
  rivals = [name for name in config.recipes if 'method' in config.recipes[name]]
  assert len(rivals) >= 19
  assert_steps(config, batch, rivals)


def test_steps_in_a_compiled_loop_equal_those_from_the_host(monkeypatch):
  config = smoke()
  batches = [[batch, batch] for batch in running.batches_of(config, 0, 3)]
  found = {}
  for backend in ('cpu', 'gpu'):
    runs = together.together(config, 2, 15)
    state = runs.init(batches[0])
    with monkeypatch.context() as patch:
      patch.setattr(jax, 'default_backend', lambda backend=backend: backend)
      state, metrics, _ = runs.advance(state, runs.feed(batches))
    found[backend] = runs.save(state).params, metrics
    assert metrics['losses']['fused'].shape == (3, 2)
  chex.assert_trees_all_close(found['cpu'], found['gpu'], rtol=1e-4, atol=1e-6)
