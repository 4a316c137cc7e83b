"""AUG: which branches learn, from what, and who gets another branch."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import training
from experiments.methods import aug
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import hand
from tests.experiments.methods import recorded

GENERATOR = np.random.default_rng(6)
WIDTHS = {'audio': 3, 'text': 2, 'visual': 4}
FEATURES = {
  name: GENERATOR.normal(0.4, 1 + i, (6, width))
  for i, (name, width) in enumerate(WIDTHS.items())
}
NAMES = tuple(WIDTHS)


def with_branches(state, counts):
  """Makes a state in which modalities have so many of three branches."""
  there = {name: np.float32(np.arange(3) < counts[name]) for name in NAMES}
  return state._replace(model_state={'branches': {'fusion': there}})


def make(**options):
  task = recorded.make_task(FEATURES, lambda: nn.MLP((5,)))
  return aug.make(task, width=4, max_branches=3, **options)


def begin(**options):
  method = make(**options)
  return method, *recorded.begin(method, FEATURES)


def branches_of(params, name):
  """Computes logits of a modality's branches, [3, batch, C], by hand."""
  layer = params[f'encoders_{name}']['Dense_0']
  features = np.maximum(recorded.dense(layer, FEATURES[name]), 0)
  hidden = [
    np.maximum(recorded.dense(params['fusion'][f'{name}_{i}'], features), 0)
    for i in range(3)
  ]
  return np.array([recorded.dense(params['fusion']['head'], h) for h in hidden])


def test_by_default_branches_are_half_as_wide_as_the_widest_features():
  task = recorded.make_task(FEATURES, lambda: nn.MLP((5,)))
  widths = {'audio': 5, 'text': 8, 'visual': 3}
  encoders = {name: nn.MLP((width,)) for name, width in widths.items()}
  task = task._replace(model=task.model.clone(encoders=encoders))
  method = aug.make(task, width=None, max_branches=2)
  state, batch = recorded.begin(method, FEATURES)
  for name, width in widths.items():
    kernel = state.params['fusion'][f'{name}_1']['kernel']
    assert kernel.shape == (width, 4)
  for phase in range(3):  # each of which sees the features of one modality
    losses, _ = jax.eval_shape(
      functools.partial(method.losses, phase=phase), state, batch, state.key
    )
    assert len(losses) == 3


@pytest.mark.quick
def test_the_last_branch_learns_what_the_others_lack():
  method, state, batch = begin(residual=0.8)
  theirs = make(residual=0.8, released='authors')
  params = jax.tree.map(np.float64, state.params)
  counts = {'audio': 1, 'text': 3, 'visual': 2}
  state = with_branches(state, counts)
  sums, scores = [], []
  for phase, name in enumerate(NAMES):
    losses, seen, gradients = recorded.learn(method, state, batch, phase)
    logits = branches_of(params, name)[: counts[name]]
    sums.append(logits.sum(0))
    expected = recorded.cross_entropy(logits.sum(0))
    np.testing.assert_allclose(losses[name], expected, rtol=1e-5)
    if len(logits) > 1:
      rest = logits[:-1].sum(0)
      factors = 1 - 0.8 * recorded.own(recorded.softmax(rest))
      own = -np.log(recorded.own(recorded.softmax(logits[-1])))
      expected += recorded.cross_entropy(rest) + np.mean(factors * own)
    boosted = f'boosted_{name}'
    np.testing.assert_allclose(losses[boosted], expected, rtol=1e-5)
    fused = recorded.cross_entropy(np.mean(sums, axis=0))
    np.testing.assert_allclose(losses['fused'], fused, rtol=1e-5)
    # Existing branches of this modality learn, and nothing learns from 'fused'.
    assert not recorded.learns((gradients['fused'], gradients[name]))
    of_fusion = gradients[boosted]['fusion']
    _, of_authors = recorded.losses_of(theirs, state, batch, phase)
    for other in NAMES:
      for i in range(3):
        learns = recorded.learns(of_fusion[f'{other}_{i}'])
        moves = seen.observed['still'][f'fusion/{other}_{i}'] == 0
        assert learns == moves == (other == name and i < counts[name])
        # Branches that the authors add do not learn.
        moves = of_authors.observed['still'][f'fusion/{other}_{i}'] == 0
        assert moves == (learns and i == 0)
      moves = seen.observed['still'][other] == 0
      assert moves == (other == name)
    assert set(seen.model_state['branches']['fusion']) == set(NAMES)
    scores.append(recorded.own(recorded.softmax(logits.sum(0))).mean())
    np.testing.assert_allclose(seen.memory.scores[name], scores[-1], rtol=1e-5)
    state = state._replace(memory=seen.memory)
  outputs = recorded.apply(method.model, state.variables, batch)
  checks.assert_close(outputs['fused'], np.mean(sums, axis=0), rtol=1e-4)
  checks.assert_close(outputs['text'], sums[1], rtol=1e-4)


def test_the_last_branch_has_no_gradient_through_others_certainty():
  """Its weights are stopped: the others learn only from their own loss."""
  _, state, batch = begin()
  state = with_branches(state, dict.fromkeys(NAMES, 3))

  def boosted(params, residual):
    now, method = state._replace(params=params), make(residual=residual)
    losses, _ = method.losses(now, batch, state.key, 1)
    return losses['boosted_text']

  gradient = recorded.compiled(jax.grad(boosted))
  gradients = [gradient(state.params, by)['fusion'] for by in (0.0, 1.0)]
  for branch, is_last in (
    ('text_0', False),
    ('text_1', False),
    ('text_2', True),
  ):
    one, other = (checks.flat(tree[branch]) for tree in gradients)
    assert np.allclose(one, other, rtol=1e-5) != is_last


@pytest.mark.quick
def test_the_weakest_gets_a_branch_if_another_is_ahead():
  method, state, _ = begin(every_epochs=2.0, margin=0.1)
  assert method.rehearsal.every_epochs == 2
  end = recorded.compiled(method.rehearsal.end)
  for scores, counts, expected in (
    ((5.0, 3.0, 4.0), (1, 1, 1), (1, 2, 1)),
    ((5.0, 3.0, 2.0), (1, 2, 1), (1, 2, 2)),
    ((3.2, 3.1, 3.0), (1, 1, 1), (1, 1, 1)),  # within the margin
    ((3.4, 3.1, 3.0), (1, 1, 1), (1, 1, 2)),
    ((5.0, 3.0, 4.0), (1, 3, 1), (1, 3, 1)),  # it has the maximal number
    ((0.0, 0.0, 0.0), (1, 1, 1), (1, 1, 1)),  # before the first step
  ):
    there = with_branches(state, dict(zip(NAMES, counts, strict=True)))
    given = {k: jnp.float32(v) for k, v in zip(NAMES, scores, strict=True)}
    memory = state.memory._replace(scores=given)
    after = end(there._replace(memory=memory), ())
    expected = with_branches(state, dict(zip(NAMES, expected, strict=True)))
    checks.assert_equal(after.model_state, expected.model_state)
    assert not any(after.memory.scores.values())


def test_new_branches_learn_and_future_ones_do_not_change():
  """With momentum and weight decay, for two seeds at once."""
  config = configuration.with_recipe(
    handwritten.get_config('three,smoke'), 'aug'
  )
  names = ('fou', 'pix')
  with config.unlocked():
    del config.model.encoders['mor']
    config.method.update(width=4, max_branches=2)
    config.optimizer = {'name': 'adamw', 'learning_rate': 0.01}
    config.optimizer.weight_decay = 0.1
  experiment = training.make(config, hand.STEPS_PER_EPOCH)
  batches = [
    {key: leaf[:, i] for key, leaf in hand.BATCHES.items()} for i in range(2)
  ]
  keys = jnp.stack([jax.random.key(seed) for seed in hand.SEEDS])
  variables = hand.draw(experiment)
  first = np.float32([[1, 0]] * 2)
  variables['branches'] = {'fusion': dict.fromkeys(names, first)}
  begin, step, end = (
    recorded.compiled(jax.vmap(one))
    for one in (
      experiment.begin,
      experiment.train_step,
      lambda state: experiment.rehearsal.end(state, ()),
    )
  )
  start = begin(variables, keys, batches[0])
  middle, _ = step(start, batches[0])
  # In one seed 'fou' is the weakest, in the other 'pix'.
  scores = {'fou': np.float32([1, 4]), 'pix': np.float32([4, 1])}
  middle = end(middle._replace(memory=middle.memory._replace(scores=scores)))
  after, metrics = step(middle, batches[1])
  for seed, weakest in enumerate(names):
    for name in names:
      for part, moves in (
        (f'fusion/{name}_0/', [True, True]),
        (f'fusion/{name}_1/', [False, name == weakest]),
        (f'encoders_{name}/', [True, True]),
      ):
        stages = [
          [v for k, v in params.items() if k.startswith(part)]
          for params in (
            hand.flat(one.params, seed) for one in (start, middle, after)
          )
        ]
        moved = [
          np.any(checks.flat(old) != checks.flat(new))
          for old, new in itertools.pairwise(stages)
        ]
        assert moved == moves, (seed, part)
      boosted, own = (
        metrics['losses'][key][seed] for key in (f'boosted_{name}', name)
      )
      assert boosted > own if name == weakest else boosted == own
  assert np.all(np.isfinite(checks.flat(metrics)))
