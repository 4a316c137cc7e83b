"""D&R: what goes back by the purity of clusters."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from experiments.methods import clusters
from experiments.methods import relearning
from tests import checks
from tests.experiments.methods import recorded


def like_purity(_, points, labels, is_row, classes):
  """A number of the rows that there are, their features and their classes."""
  assert classes == 4
  return jnp.mean(0.1 * labels * points[:, 0], where=is_row)


def test_encoders_go_back_by_what_they_learnt_by_heart(monkeypatch):
  monkeypatch.setattr(clusters, 'class_purity', like_purity)
  features = {
    'audio': np.random.default_rng(5).standard_normal((6, 5)),
    'visual': np.random.default_rng(6).standard_normal((6, 5)),
  }
  task = recorded.make_task(features, encoder=recorded.Normalised)
  method = relearning.make(
    task, strength=2.0, rows=40, every_epochs=1.5, times=2
  )
  rehearsal = method.rehearsal
  when = rehearsal.every_epochs, rehearsal.first, rehearsal.last
  assert when == (1.5, 1, 2)
  start, batch = recorded.begin(method, features)
  generator = np.random.default_rng(0)
  # Elsewhere than at the start, and statistics, too.
  state = start._replace(
    params=shaken(start.params, generator),
    model_state=shaken(start.model_state, generator),
    step=jnp.int32(7),
  )
  scratch = rehearsal.begin(state, batch)
  splits = {}
  for one in rehearsal.passes:
    step, seen = recorded.compiled(one.step), []
    for _ in range(3):
      rows = {
        k: np.float32(generator.standard_normal((6, 5))) for k in features
      }
      rows['label'] = generator.integers(0, 4, 6)
      if one.split == 'train':
        rows['audio'] += rows['label'][:, None]
        rows['visual'] -= rows['label'][:, None]
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
  apart = np.array(
    [
      np.subtract(*(number_of(one, name) for one in scratch))
      for name in features
    ]
  )
  assert apart[0] > 0.1 > -0.1 > apart[1]
  np.testing.assert_allclose(back, np.tanh(2 * np.abs(apart)), rtol=1e-4)
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


def number_of(sample, name):
  given = sample.features[name], sample.labels, sample.draws < 2
  return like_purity(None, *given, 4)


def shaken(tree, generator):
  return jax.tree.map(
    lambda leaf: leaf + np.float32(generator.uniform(0.1, 1, leaf.shape)), tree
  )
