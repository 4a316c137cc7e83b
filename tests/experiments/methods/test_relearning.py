"""D&R: what goes back by the purity of clusters."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from experiments import train
from experiments.core import configuration
from experiments.methods import clusters
from experiments.methods import relearning
from tests import checks
from tests import running
from tests.experiments.methods import recorded
from tests.running import smoke


def test_encoders_go_back_by_what_they_learnt_by_heart():
  features = {
    'audio': np.random.default_rng(5).standard_normal((6, 5)),
    'visual': np.random.default_rng(6).standard_normal((6, 5)),
  }
  task = recorded.make_task(features, encoder=recorded.Normalised)
  method = relearning.make(task, strength=2.0, rows=40)
  start, batch = recorded.begin(method, features)
  generator = np.random.default_rng(0)
  # Elsewhere than at the start, and statistics, too.
  state = start._replace(
    params=shaken(start.params, generator),
    model_state=shaken(start.model_state, generator),
    step=jnp.int32(7),
  )
  rehearsal = method.rehearsal
  scratch = rehearsal.begin(state, batch)
  splits = {}
  for one in rehearsal.passes:
    step, seen = recorded.compiled(one.step), []
    for _ in range(3):
      rows = {
        k: np.float32(generator.standard_normal((6, 5))) for k in features
      }
      rows['label'] = generator.integers(0, 4, 6)
      if one.split == 'train':  # easier ones
        rows['audio'] += 4 * rows['label'][:, None]
      if one.split == 'validation':
        rows['mask'] = np.arange(6) < 5
      scratch = step(state, scratch, rows)
      seen.append(rows)
    splits[one.split] = seen
  after = recorded.compiled(rehearsal.end)(state, scratch)
  features_of = recorded.compiled(
    functools.partial(task.model.apply, method='features')
  )
  back = np.asarray(after.memory.back)
  expected = [
    np.tanh(2 * abs(purity(state, scratch, name, i)))
    for i, name in enumerate(features)
  ]
  np.testing.assert_allclose(back, expected, rtol=1e-4, atol=1e-6)
  assert back[0] > back[1]
  # All rows that there are, and no others.
  for sample, split, count in (
    (scratch.train, 'train', 18), (scratch.validation, 'validation', 15),
  ):  # fmt: skip
    rows = splits[split]
    whole = [features_of(state.variables, one) for one in rows]
    is_row = np.asarray(sample.draws) < 2
    assert is_row.sum() == count
    real = np.concatenate(
      [np.asarray(one['audio'])[: count // 3] for one in whole]
    )
    found = np.asarray(sample.features['audio'])[is_row]
    np.testing.assert_allclose(
      np.sort(found, axis=0), np.sort(real, axis=0), rtol=1e-4, atol=1e-5
    )
  for i, name in enumerate(features):
    part = f'encoders_{name}'
    for now, new, old in (
      (state.params, after.params, start.params),
      (
        state.model_state['batch_stats'],
        after.model_state['batch_stats'],
        start.model_state['batch_stats'],
      ),
    ):
      mixed = jax.tree.map(
        lambda one, first, a=back[i]: a * first + (1 - a) * one,
        now[part],
        old[part],
      )
      checks.assert_close(new[part], mixed, rtol=1e-4)
    chex.assert_trees_all_equal(
      after.params[f'heads_{name}'], state.params[f'heads_{name}']
    )
    assert rehearsal.moves((part, 'Dense_0', 'kernel'))
  chex.assert_trees_all_equal(after.params['fusion'], state.params['fusion'])
  assert not rehearsal.moves(('fusion', 'Dense_0', 'kernel'))


k_means = recorded.compiled(clusters.k_means, static_argnums=3)


def purity(state, scratch, name, i):
  """The difference, of the clusters that the keys give."""
  found = []
  for number, sample in enumerate(scratch):
    is_row = np.asarray(sample.draws) < 2
    points = np.asarray(sample.features[name])
    low, high = points[is_row].min(0), points[is_row].max(0)
    points = np.where(is_row[:, None], 2 * (points - low) / (high - low) - 1, 0)
    key = jax.random.fold_in(relearning._key(state), 4 + 2 * i + number)
    assigned = np.asarray(k_means(key, np.float32(points), is_row, 4))
    labels = np.asarray(sample.labels)
    most = [
      np.bincount(labels[is_row & (assigned == k)], minlength=1).max()
      for k in range(4)
    ]
    found.append(sum(most) / is_row.sum())
  return found[0] - found[1]


def shaken(tree, generator):
  return jax.tree.map(
    lambda leaf: leaf + np.float32(generator.uniform(0.1, 1, leaf.shape)), tree
  )


def test_a_run_relearns_once(tmp_path):
  config = configuration.with_recipe(smoke(steps=20), 'relearning')
  config.evaluation.noise_levels = ()
  with config.unlocked():
    config.method.every_epochs, config.method.times = 0.5, 1
  train.train(config, tmp_path)
  arrays, _ = running.final_arrays(tmp_path, config)
  back = np.asarray(arrays.memory.back)
  assert np.all((back > 0) & (back < 1))
