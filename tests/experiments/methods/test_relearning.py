"""D&R: encoders return towards their start, by the purity of clusters."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import clusters
from experiments.methods import relearning
from tests import checks
from tests.experiments.methods import recorded

add = jax.jit(relearning.added)


def like_purity(_, points, labels, is_row, classes):
  """Returns the number of existing rows, their features and classes."""
  assert classes == 4
  return jnp.mean(0.1 * labels * points[:, 0], where=is_row)


def test_encoders_return_in_proportion_to_what_they_memorised(monkeypatch):
  monkeypatch.setattr(clusters, 'class_purity', like_purity)
  task = recorded.make_task(encoder=recorded.Normalised)
  method = relearning.make(
    task, strength=2.0, rows=40, every_epochs=1.5, times=2
  )
  rehearsal = method.rehearsal
  when = rehearsal.every_epochs, rehearsal.first, rehearsal.last
  assert when == (1.5, 1, 2)
  start, batch = recorded.begin(method)
  generator = np.random.default_rng(0)
  # Parameters and statistics differ from the start.
  state = start._replace(
    params=shaken(start.params, generator),
    model_state=shaken(start.model_state, generator),
    step=jnp.int32(7),
  )
  features_of = recorded.compiled(
    functools.partial(task.model.apply, method='features')
  )
  scratch, numbers = rehearsal.begin(state, batch), []
  for one in rehearsal.passes:
    step, seen = recorded.compiled(one.step), []
    for _ in range(3):
      rows = {
        k: np.float32(generator.standard_normal((6, 5)))
        for k in task.modalities
      }
      rows['label'] = labels = generator.integers(0, 4, 6)
      is_row = np.ones(6, bool)
      if one.split == 'train':
        rows['audio'] += labels[:, None]
        rows['visual'] -= labels[:, None]
      else:
        rows['mask'] = is_row = np.arange(6) < 5
      scratch = step(state, scratch, rows)
      features = features_of(state.variables, rows)
      seen.append(
        [
          like_purity(None, features[name], labels, is_row, 4)
          for name in task.modalities
        ]
      )
    # All existing rows and no padding, as many from each batch.
    numbers.append(np.mean(seen, axis=0))
  after = recorded.compiled(rehearsal.end)(state, scratch)
  back, apart = after.memory.back, np.subtract(*numbers)
  assert apart[0] > 0.1 > -0.1 > apart[1]
  np.testing.assert_allclose(back, np.tanh(2 * np.abs(apart)), rtol=1e-4)
  alphas = {
    f'encoders_{k}': a for k, a in zip(task.modalities, back, strict=True)
  }
  for kind in ('params', 'batch_stats'):
    now, new, old = (one.variables[kind] for one in (state, after, start))
    for part, tree in now.items():
      alpha = alphas.get(part, 0)
      mixed = jax.tree.map(
        lambda one, first, a=alpha: a * first + (1 - a) * one, tree, old[part]
      )
      rtol = 1e-4 if part in alphas else 0
      checks.assert_close(new[part], mixed, rtol, atol=1e-6 if rtol else 0)
      assert rehearsal.moves((part, 'kernel')) == (part in alphas)
  # The authors do not change moments and statistics.
  theirs = relearning.make(task, strength=2.0, released='authors').rehearsal
  left = recorded.compiled(theirs.end)(state, scratch)
  chex.assert_trees_all_equal(left.params, after.params)
  chex.assert_trees_all_equal(left.model_state, state.model_state)
  assert theirs.moves is None


def shaken(tree, generator):
  return jax.tree.map(
    lambda leaf: leaf + np.float32(generator.uniform(0.1, 1, leaf.shape)), tree
  )


@pytest.mark.quick
@pytest.mark.parametrize('rows', [4, 30])
def test_a_sample_is_random_rows_or_all_of_them(rows):
  generator = np.random.default_rng(0)
  features = generator.standard_normal((5, 3, 2)).astype(np.float32)
  labels = np.arange(15).reshape(5, 3)
  real = np.ones((5, 3), bool)
  real[4, 1:] = False  # the last batch is padded
  chosen = np.zeros(15)
  for seed in range(60):
    key = jax.random.key(seed)
    sample = relearning.empty_sample(rows, {'a': features[0]})
    for i in range(5):
      sample = add(
        key, sample, {'a': features[i]}, jnp.asarray(labels[i]), real[i]
      )
    is_row = np.asarray(sample.is_row)
    assert is_row.sum() == min(rows, 13)
    found = np.asarray(sample.labels)[is_row]
    assert len(set(found)) == len(found)
    whole = features.reshape(15, 2)
    np.testing.assert_array_equal(sample.features['a'][is_row], whole[found])
    chosen[found] += 1
  assert not np.any(chosen[13:])
  if rows == 4:  # each as likely as the others: 60 * 4 / 13 times
    assert chosen[:13].min() > 8
    assert chosen[:13].max() < 32


@pytest.mark.quick
def test_no_more_places_are_clustered_than_an_epoch_has_rows():
  method = relearning.make(recorded.make_task(), rows=100)
  state, batch = recorded.begin(method)
  scratch = jax.eval_shape(method.rehearsal.begin, state, batch)
  for sample in scratch:  # 10 batches of 6 rows
    assert sample.labels.shape == (60,)
