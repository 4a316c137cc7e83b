"""MMCosine, MLA, UMT and G-Blending against their formulas, in NumPy."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from flax import traverse_util
from jax import lax

import mimo_jax
from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import training
from experiments.methods import base
from experiments.methods import copies
from experiments.methods import g_blending
from experiments.methods import mla
from experiments.methods import mmcosine
from experiments.methods import umt
from mimo_jax import nn

NAMES = ('fou', 'mor', 'pix')
WIDTHS = {'fou': 5, 'mor': 4, 'pix': 7}
CLASSES, BATCH, STEPS_PER_EPOCH = 10, 12, 3
SEEDS = (3, 8)
GENERATOR = np.random.default_rng(0)


def draw_batches(number, rows=BATCH):
  """Of every seed, [seeds, number, rows, ...]."""
  shape = (len(SEEDS), number, rows)
  # Neither centred, nor of one scale.
  batches = {
    name: (
      0.3 * (1 + i) + (0.5 + i) * GENERATOR.standard_normal((*shape, width))
    ).astype(np.float32)
    for i, (name, width) in enumerate(WIDTHS.items())
  }
  return batches | {'label': GENERATOR.integers(0, CLASSES, shape, np.int32)}


MOMENTUM = {'name': 'sgd', 'learning_rate': 0.1, 'momentum': 0.9}
ADAMW = {'name': 'adamw', 'learning_rate': 0.01, 'weight_decay': 0.1}
TRACE = {'name': 'trace', 'decay': 0.9}

BATCHES = draw_batches(5)

# Each program runs once: better compiled in little time than fast.
compiled = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  },
)
HELD = draw_batches(1, rows=6)
REAL_ROWS = 4  # the others only fill it up


def batch_of(batches, seed, step):
  return {key: leaf[seed, step] for key, leaf in batches.items()}


def make_key(seed):
  # What draws by keys of this kind compiles several times faster.
  return jax.random.key(seed, impl='unsafe_rbg')


def train(
  method, batches=BATCHES, optimizer=MOMENTUM, transforms=(), **options
):
  """All that a run does, of all seeds, compiled as one program.

  Returns:
    The states at the start and after the rehearsal, the rehearsal's scratch,
    the last state, and the metrics.
  """
  config = configuration.with_recipe(
    handwritten.get_config('three,smoke'), method
  )
  with config.unlocked():
    config.method.update(options)
    config.optimizer, config.gradient_transforms = optimizer, transforms
  experiment = training.make(config, STEPS_PER_EPOCH)

  def run(key, batches, held):
    first = jax.tree.map(lambda leaf: leaf[0], batches)
    state = start = experiment.init(key, first)
    scratch = None
    if experiment.rehearsal is not None:
      scratch = experiment.rehearsal.begin(state, first)
      for one in experiment.rehearsal.passes:
        length = round(one.epochs * STEPS_PER_EPOCH)
        walked = (
          jax.tree.map(lambda leaf, length=length: leaf[:length], batches)
          if one.split == 'train'
          else held
        )
        scratch, _ = lax.scan(
          lambda scratch, batch, one=one, state=state: (
            one.step(state, scratch, batch),
            None,
          ),
          scratch,
          walked,
        )
      state = experiment.rehearsal.end(state, scratch)
    rehearsed = state
    state, metrics = lax.scan(experiment.train_step, state, batches)
    return start, rehearsed, scratch, state, metrics

  held = HELD | {
    'mask': np.broadcast_to(
      np.arange(HELD['label'].shape[-1]) < REAL_ROWS, HELD['label'].shape
    )
  }
  keys = jnp.stack([make_key(seed) for seed in SEEDS])
  return compiled(jax.vmap(run))(keys, batches, held)


# The model and its gradients, by hand, in float64.


def flat(params, seed):
  """Path -> array, of one seed."""
  return {
    path: np.float64(leaf[seed])
    for path, leaf in traverse_util.flatten_dict(params, sep='/').items()
  }


def encode(params, name, batch):
  place = f'encoders_{name}/Dense_0'
  return np.maximum(
    batch[name] @ params[f'{place}/kernel'] + params[f'{place}/bias'], 0
  )


def through(params, place, features):
  return features @ params[f'{place}/kernel'] + params[f'{place}/bias']


def fuse(params, features):
  side_by_side = np.concatenate([features[name] for name in NAMES], axis=1)
  return through(params, 'fusion/Dense_0', side_by_side)


def probabilities(logits):
  shifted = np.exp(logits - np.max(logits, axis=1, keepdims=True))
  return shifted / np.sum(shifted, axis=1, keepdims=True)


def cross_entropy(logits, labels):
  return -np.mean(np.log(probabilities(logits)[np.arange(len(labels)), labels]))


def dense_gradient(params, place, features, by_logits):
  """Gradients of a dense layer, and by what it was given."""
  own = {
    f'{place}/kernel': features.T @ by_logits,
    f'{place}/bias': np.sum(by_logits, axis=0),
  }
  return own, by_logits @ params[f'{place}/kernel'].T


def encoder_gradient(features, name, batch, by_features):
  by_hidden = by_features * (features > 0)
  place = f'encoders_{name}/Dense_0'
  return {
    f'{place}/kernel': batch[name].T @ by_hidden,
    f'{place}/bias': np.sum(by_hidden, axis=0),
  }


def by_logits(logits, labels):
  """Gradient of the cross entropy."""
  return (probabilities(logits) - np.eye(CLASSES)[labels]) / len(labels)


def gradient_alone(params, name, batch):
  """Gradient of a modality's loss, of its head and its encoder."""
  features = encode(params, name, batch)
  place = f'heads_{name}'
  error = by_logits(through(params, place, features), batch['label'])
  own, by_features = dense_gradient(params, place, features, error)
  return own | encoder_gradient(features, name, batch, by_features)


def gradient_fused(params, batch):
  """Gradient of the fused loss."""
  features = {name: encode(params, name, batch) for name in NAMES}
  side_by_side = np.concatenate([features[name] for name in NAMES], axis=1)
  error = by_logits(fuse(params, features), batch['label'])
  gradient, by_features = dense_gradient(
    params, 'fusion/Dense_0', side_by_side, error
  )
  parts = np.split(by_features, len(NAMES), axis=1)
  for name, part in zip(NAMES, parts, strict=True):
    gradient |= encoder_gradient(features[name], name, batch, part)
  return gradient


class Momentum:
  """What MOMENTUM is."""

  def __init__(self):
    self.trace = {}

  def step(self, params, gradient):
    for path, leaf in gradient.items():
      self.trace[path] = leaf + 0.9 * self.trace.get(path, 0)
      params[path] = params[path] - 0.1 * self.trace[path]


class TracedAdamW:
  """What TRACE and ADAMW are, one after the other."""

  def __init__(self):
    self.count, self.trace, self.first, self.second = 0, {}, {}, {}

  def step(self, params, gradient):
    self.count += 1
    for path, leaf in gradient.items():
      trace = leaf + 0.9 * self.trace.get(path, 0)
      self.trace[path] = trace
      self.first[path] = 0.9 * self.first.get(path, 0) + 0.1 * trace
      self.second[path] = 0.999 * self.second.get(path, 0) + 0.001 * trace**2
      first = self.first[path] / (1 - 0.9**self.count)
      second = self.second[path] / (1 - 0.999**self.count)
      update = first / (np.sqrt(second) + 1e-8) + 0.1 * params[path]
      params[path] = params[path] - 0.01 * update


def assert_params(params, seed, expected):
  for path, leaf in flat(params, seed).items():
    np.testing.assert_allclose(
      leaf, expected[path], rtol=1e-3, atol=1e-4, err_msg=path
    )


# MMCosine.


def test_mmcosine_learns_from_cosines():
  start, _, _, after, metrics = train('mmcosine', scale=5.0)
  for seed in range(len(SEEDS)):
    params, batch = flat(start.params, seed), batch_of(BATCHES, seed, 0)
    logits = 0
    for name in NAMES:
      features = encode(params, name, batch)
      kernel = params[f'fusion/{name}/kernel']
      # A row may have no active unit: its cosines are 0.
      lengths = np.linalg.norm(features, axis=1, keepdims=True)
      logits += (
        5
        * (features @ kernel)
        / np.where(lengths == 0, 1, lengths)
        / np.linalg.norm(kernel, axis=0)
      )
      read_out = through(params, f'heads_{name}', features)
      np.testing.assert_allclose(
        metrics['losses'][name][seed, 0],
        cross_entropy(read_out, batch['label']),
        rtol=1e-4,
      )
    np.testing.assert_allclose(
      metrics['losses']['fused'][seed, 0],
      cross_entropy(logits, batch['label']),
      rtol=1e-4,
    )
    for path, leaf in flat(after.params, seed).items():
      assert np.any(leaf != params[path]), path


def test_mmcosine_keeps_the_initialiser_and_refuses_what_is_not_linear():
  fusion = functools.partial(nn.SumFusion, kernel_init='ones')
  made = mmcosine.make(make_task(fusion=fusion), scale=7.0).model.fusion
  assert made.func is nn.CosineFusion
  assert made.keywords == {'scale': 7.0, 'kernel_init': 'ones'}
  hidden = functools.partial(nn.ConcatFusion, hidden_widths=(8,))
  for fusion in (hidden, nn.GatedFusion):
    with pytest.raises(ValueError, match='mmcosine was given a model with'):
      mmcosine.make(make_task(fusion=fusion))


# MLA.


def test_mla_is_the_alternation_by_hand():
  """An optimizer a part, each of which moves in its own phase only."""
  batches = {key: leaf.copy() for key, leaf in BATCHES.items()}
  # A phase that is not finite is skipped; those around it are not.
  bad = (1, 3, 'mor')
  batches['mor'][1, 3, 0] = np.nan
  start, _, _, after, metrics = train(
    'mla', batches=batches, optimizer=ADAMW, transforms=(TRACE,)
  )
  for seed in range(len(SEEDS)):
    params = flat(start.params, seed)
    optimizers = {part: TracedAdamW() for part in (*NAMES, 'fusion')}
    head = Head(params['fusion/head/kernel'].shape[0])
    for step in range(batches['label'].shape[1]):
      batch = batch_of(batches, seed, step)
      logits = {}
      for name in NAMES:
        if (seed, step, name) == bad:
          continue
        features = encode(params, name, batch)
        logits[name] = through(params, 'fusion/head', features)
        read_out = through(params, f'heads_{name}', features)
        for objective, value in (
          (f'shared_{name}', logits[name]),
          (name, read_out),
        ):
          np.testing.assert_allclose(
            metrics['losses'][objective][seed, step],
            cross_entropy(value, batch['label']),
            rtol=2e-3,
          )
        shared, by_features = dense_gradient(
          params,
          'fusion/head',
          features,
          by_logits(logits[name], batch['label']),
        )
        own, _ = dense_gradient(
          params, f'heads_{name}', features, by_logits(read_out, batch['label'])
        )
        own |= encoder_gradient(features, name, batch, by_features)
        shared['fusion/head/kernel'] = head.projected(
          shared['fusion/head/kernel'], np.mean(features, axis=0)
        )
        optimizers[name].step(params, own)
        optimizers['fusion'].step(params, shared)
      if len(logits) == len(NAMES):
        np.testing.assert_allclose(
          metrics['losses']['fused'][seed, step],
          cross_entropy(gated(logits), batch['label']),
          rtol=2e-3,
        )
    assert_params(after.params, seed, params)
  chex.assert_tree_all_finite((after.params, after.opt_state, after.memory))
  skipped = optax.tree.get(after.opt_state, 'total_notfinite')
  assert skipped.tolist() == [0, 1]


class Head:
  """The gradient modification of MLA, by the formula with a scalar."""

  def __init__(self, width):
    self.projection, self.updates = np.eye(width), 0

  def projected(self, gradient, mean):
    if self.updates:
      batch = self.updates // len(NAMES) % STEPS_PER_EPOCH
      alpha = 0.1 ** (1 + batch / STEPS_PER_EPOCH)
      k = self.projection @ mean
      self.projection -= np.outer(k, k) / (alpha + mean @ k)
      self.projection /= np.linalg.norm(self.projection)
      gradient = self.projection @ gradient
    self.updates += 1
    return gradient


def gated(logits):
  """MLA's weights: exp(max_j e_j - e_m), divided by their sum."""
  entropies = {}
  for name, value in logits.items():
    p = probabilities(value)
    entropies[name] = -np.sum(p * np.log(p), axis=1, keepdims=True)
  largest = np.max(list(entropies.values()), axis=0)
  weights = {name: np.exp(largest - e) for name, e in entropies.items()}
  return sum(weights[k] * logits[k] for k in logits) / sum(weights.values())


# Encoders with batch statistics, without the runner.


class Normalised(linen.Module):
  """A dense layer and batch normalisation."""

  @linen.compact
  def __call__(self, inputs, *, train=False):
    hidden = linen.Dense(5)(inputs)
    return linen.BatchNorm(use_running_average=not train, momentum=0.5)(hidden)


def make_task(**changes):
  names = ('fou', 'pix')
  model = nn.LateFusion(
    **{
      'encoders': {name: Normalised() for name in names},
      'num_classes': CLASSES,
    }
    | changes
  )
  return base.Task(
    model=model,
    losses_of=nn.cross_entropy_losses,
    target='label',
    weighting=mimo_jax.weightings.sum(),
    optimizer=lambda updates: optax.sgd(0.1 / updates),
    steps_per_epoch=STEPS_PER_EPOCH,
  )


def first_state(method):
  """As `training.make` begins it, but for the optimizer's part."""

  def begin(key, batch):
    variables = method.model.init(key, batch)
    params = variables.pop('params')
    state = base.TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      model_state=variables,
      opt_state=(),
      memory=(),
      key=key,
    )
    return method.init(state, batch)

  return compiled(begin)(make_key(4), batch_of(BATCHES, 0, 0))


def test_in_a_phase_of_mla_statistics_of_the_others_stand_still():
  method = mla.make(make_task())
  state, batch = first_state(method), batch_of(BATCHES, 0, 1)
  losses, seen = compiled(method.losses, static_argnums=3)(
    state, batch, state.key, 1
  )
  assert set(losses) == {'shared_pix', 'pix', 'fused'}
  before, after = state.model_state, seen.model_state
  chex.assert_trees_all_equal(
    after['batch_stats']['encoders_fou'], before['batch_stats']['encoders_fou']
  )
  dense = state.params['encoders_pix']['Dense_0']
  hidden = batch['pix'] @ np.asarray(dense['kernel'])  # the bias is 0
  statistics = after['batch_stats']['encoders_pix']['BatchNorm_0']
  np.testing.assert_allclose(
    statistics['mean'], 0.5 * np.mean(hidden, axis=0), rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    statistics['var'], 0.5 + 0.5 * np.var(hidden, axis=0), rtol=1e-4
  )


@pytest.mark.parametrize('heads', ['share', 'shapley'])
def test_without_auxiliary_heads_mla_reads_a_modality_by_the_shared_one(heads):
  method = mla.make(make_task(heads=heads))
  state, batch = first_state(method), batch_of(BATCHES, 0, 1)
  assert set(state.params) == {'encoders_fou', 'encoders_pix', 'fusion'}

  @compiled
  def losses_and_gradient(params):
    def losses_of(params):
      return method.losses(state._replace(params=params), batch, state.key, 1)[
        0
      ]

    return losses_of(params), jax.grad(lambda p: losses_of(p)['pix'])(params)

  losses, gradient = losses_and_gradient(state.params)
  assert losses['pix'] == losses['shared_pix'] > 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_mla_needs_features_of_one_width():
  encoders = {'fou': nn.MLP((4,)), 'pix': nn.MLP((5,))}
  method = mla.make(make_task(encoders=encoders))
  with pytest.raises(ValueError, match='expected one width'):
    first_state(method)


def test_teachers_are_in_evaluation_mode():
  method = umt.make(make_task(), strength=3.0)
  state, batch = first_state(method), batch_of(BATCHES, 0, 1)
  losses, seen = compiled(method.losses, static_argnums=3)(
    state, batch, state.key, None
  )
  expected = 0.0
  for name in ('fou', 'pix'):
    teacher, student = (
      batch[name] @ np.asarray(tree[f'encoders_{name}']['Dense_0']['kernel'])
      for tree in (state.memory['params'], state.params)
    )
    # Running statistics, which are those of the start; and the batch's.
    teacher = teacher / np.sqrt(1 + 1e-5)
    student = (student - np.mean(student, axis=0)) / np.sqrt(
      np.var(student, axis=0) + 1e-5
    )
    expected += 3.0 * np.mean((student - teacher) ** 2)
  np.testing.assert_allclose(losses['distillation'], expected, rtol=1e-4)
  chex.assert_trees_all_equal(seen.memory, state.memory)


def test_a_copy_skips_what_is_not_finite():
  task = make_task()
  step = compiled(copies.stepper(task, task.model, ('fou',)))
  state = first_state(umt.make(task))
  good = batch_of(BATCHES, 0, 1)
  bad = dict(good, fou=np.full_like(good['fou'], np.inf))
  copy = copies.begin(task, state, state.variables, 0)
  skipped = step(copy, bad)
  chex.assert_trees_all_equal(skipped.variables, copy.variables)
  assert int(skipped.step) == 1
  moved = step(copy, good)
  for key in ('params', 'batch_stats'):
    for name, differs in (('fou', True), ('pix', key == 'batch_stats')):
      before, after = (
        jax.tree.leaves(tree.variables[key][f'encoders_{name}'])
        for tree in (copy, moved)
      )
      assert np.any(before[0] != after[0]) == differs, (key, name)


def test_keys_of_copies_differ():
  state = base.TrainState(
    jnp.zeros((), jnp.int32), {}, {}, (), (), jax.random.key(0)
  )
  keys = [
    state.key,
    *(
      copies.key_of(state._replace(step=jnp.int32(step)), number)
      for number, step in ((0, 0), (1, 0), (0, 5))
    ),
  ]
  assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 4


# UMT.


def test_teachers_are_models_trained_apart():
  start, rehearsed, _, after, metrics = train(
    'umt', teacher_epochs=1.3, strength=3.0
  )
  chex.assert_trees_all_equal(rehearsed.params, start.params)
  # From then on they stand still.
  chex.assert_trees_all_equal(after.memory, rehearsed.memory)
  for seed in range(len(SEEDS)):
    teachers = flat(start.memory['params'], seed)
    student = flat(start.params, seed)
    # They start elsewhere.
    path = 'encoders_fou/Dense_0/kernel'
    assert not np.allclose(teachers[path], student[path])
    for name in NAMES:
      rule = Momentum()
      for step in range(4):
        batch = batch_of(BATCHES, seed, step)
        rule.step(teachers, gradient_alone(teachers, name, batch))
    assert_params(rehearsed.memory['params'], seed, teachers)
    batch = batch_of(BATCHES, seed, 0)
    distance = sum(
      np.mean(
        (encode(student, name, batch) - encode(teachers, name, batch)) ** 2
      )
      for name in NAMES
    )
    np.testing.assert_allclose(
      metrics['losses']['distillation'][seed, 0], 3 * distance, rtol=1e-3
    )
  for name in NAMES:
    assert np.all(np.isfinite(metrics['losses'][name]))


# G-Blending.

# Of the fused output, audio and visual.
TRAIN_START = np.float32([1.5, 1.6, 1.7])
HELD_START = np.float32([1.6, 1.7, 1.75])
TRAIN_END = np.float32([0.3, 0.6, 1.2])
HELD_END = np.float32([1.1, 1.2, 1.45])


@functools.partial(compiled, static_argnames='negative')
def compiled_blend(losses, negative):
  return g_blending.blend(*losses, negative=negative)


def blend(
  train_start=TRAIN_START,
  held_start=HELD_START,
  train_end=TRAIN_END,
  held_end=HELD_END,
  negative='zero',
):
  losses = np.stack([train_start, held_start, train_end, held_end])
  return np.asarray(compiled_blend(np.float32(losses), negative))


def test_blend_is_that_of_recorded_numbers():
  # Computed in float64 outside this project, |ΔG / ΔO²| as BalanceBenchmark.
  expected = [0.09699321047526671, 0.19010669253152263, 0.7129000969932107]
  for negative in ('zero', 'absolute'):
    np.testing.assert_allclose(blend(negative=negative), expected, rtol=1e-4)


@pytest.mark.parametrize('scale', [1e-30, 1e-6, 1e6, 1e30])
def test_blend_does_not_depend_on_the_unit_of_losses(scale):
  losses = (TRAIN_START, HELD_START, TRAIN_END, HELD_END)
  scaled = blend(*(scale * np.float64(one) for one in losses))
  np.testing.assert_allclose(scaled, blend(), rtol=1e-4)


def test_a_loss_that_rose_on_validation_rows_has_no_weight_or_its_size():
  rose = np.float32([1.1, 1.2, 1.95])
  gain = np.array([0.5, 0.5, -0.2])
  growth = np.array([0.7, 0.5, 0.7])
  for negative, numerators in (
    ('zero', np.maximum(gain, 0)),
    ('absolute', np.abs(gain)),
  ):
    scores = numerators / growth**2
    np.testing.assert_allclose(
      blend(held_end=rose, negative=negative),
      scores / np.sum(scores),
      rtol=1e-4,
    )


def test_blend_is_finite_whatever_happens():
  # The last overfits no more than before: all of the weight.
  flat_end = np.float32([0.3, 0.6, 1.4])
  np.testing.assert_allclose(blend(train_end=flat_end), [0, 0, 1], atol=1e-6)
  # Nothing was learnt, or all is lost.
  for end in (HELD_START, HELD_START + 1, np.full(3, np.nan)):
    np.testing.assert_allclose(blend(held_end=end), 1 / 3, rtol=1e-6)
  zeros = np.zeros(3)
  np.testing.assert_allclose(
    blend(zeros, zeros, zeros, zeros), 1 / 3, rtol=1e-6
  )
  # A copy that diverged.
  diverged = np.float32([1.1, 1.2, np.inf])
  scores = np.array([0.5 / 0.7**2, 0.5 / 0.5**2, 0])
  for negative in ('zero', 'absolute'):
    np.testing.assert_allclose(
      blend(held_end=diverged, negative=negative),
      scores / np.sum(scores),
      rtol=1e-4,
    )


def test_g_blending_by_hand():
  start, rehearsed, scratch, after, metrics = train(
    'g_blending',
    super_epochs=1.3,
    total='objectives',
  )
  objectives = ('fused', *NAMES)
  chex.assert_trees_all_equal(rehearsed.params, start.params)
  np.testing.assert_array_equal(
    optax.tree.get(start.opt_state, 'blend'), np.ones((len(SEEDS), 4))
  )
  weights = np.asarray(optax.tree.get(rehearsed.opt_state, 'blend'))
  np.testing.assert_allclose(np.sum(weights, axis=1), 4, rtol=1e-5)

  for seed in range(len(SEEDS)):
    batches = [batch_of(BATCHES, seed, step) for step in range(5)]
    # An epoch of training rows, and the validation rows that are real.
    splits = (
      {
        key: np.concatenate([batch[key] for batch in batches[:3]])
        for key in batches[0]
      },
      {key: leaf[seed, 0, :REAL_ROWS] for key, leaf in HELD.items()},
    )
    apart, fused = flat(start.params, seed), flat(start.params, seed)
    losses = [losses_of(apart, fused, rows) for rows in splits]
    rules = {name: Momentum() for name in objectives}
    for batch in batches[:4]:
      rules['fused'].step(fused, gradient_fused(fused, batch))
      for name in NAMES:
        rules[name].step(apart, gradient_alone(apart, name, batch))
    losses += [losses_of(apart, fused, rows) for rows in splits]
    measured = scratch.sums[seed] / scratch.rows[seed][:, None]
    np.testing.assert_allclose(measured, losses, rtol=1e-3)
    np.testing.assert_allclose(
      weights[seed], 4 * blend(*np.asarray(measured)), rtol=1e-4
    )

    # Then the model learns from the blended losses.
    params, rule = flat(start.params, seed), Momentum()
    for step, batch in enumerate(batches):
      for place, name in enumerate(objectives):
        np.testing.assert_allclose(
          metrics['weights'][name][seed, step], weights[seed, place]
        )
      gradients = [gradient_fused(params, batch)] + [
        gradient_alone(params, name, batch) for name in NAMES
      ]
      rule.step(
        params,
        {
          path: sum(
            weight * gradient.get(path, 0)
            for weight, gradient in zip(weights[seed], gradients, strict=True)
          )
          for path in params
        },
      )
    assert_params(after.params, seed, params)
  # Both rules for ΔG matter here: not all weights are alike, nor one alone.
  assert np.all(np.sum(weights > 0, axis=1) >= 1)
  assert not np.allclose(weights[0], weights[1])


def losses_of(apart, fused, rows):
  features = {name: encode(fused, name, rows) for name in NAMES}
  return [
    cross_entropy(fuse(fused, features), rows['label']),
    *(
      cross_entropy(
        through(apart, f'heads_{name}', encode(apart, name, rows)),
        rows['label'],
      )
      for name in NAMES
    ),
  ]


def test_g_blending_offline_rehearses_once():
  task = make_task()
  offline = g_blending.make(task, super_epochs=7.0, offline=True).rehearsal
  online = g_blending.make(task, super_epochs=0.5).rehearsal
  assert (offline.every_epochs, online.every_epochs) == (None, 0.5)
  for rehearsal, window, once in ((offline, 7.0, 1.0), (online, 0.5, 0.5)):
    assert [(one.split, one.epochs) for one in rehearsal.passes] == [
      ('train', once),
      ('validation', 1),
      ('train', window),
      ('train', once),
      ('validation', 1),
    ]


@pytest.mark.parametrize(
  ('module', 'options'),
  [
    (umt, {'strength': -1.0}),
    (umt, {'teacher_epochs': 0}),
    (g_blending, {'super_epochs': 0.0}),
    (g_blending, {'negative': 'drop'}),
    (g_blending, {'total': 1.0}),
  ],
)
def test_options_out_of_range_are_named(module, options):
  ((name, value),) = options.items()
  with pytest.raises(ValueError, match=f'{name}={value!r}; expected'):
    module.make(make_task(), **options)
