"""Evaluation of rows that lack modalities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluate import evaluate
from tests.experiments.evaluate.test_evaluation import condition
from tests.experiments.evaluate.test_evaluation import Echo


class Told:
  """A model that adds up the modalities that are present."""

  encoders = ('a', 'b')

  def apply(self, variables, inputs):
    del variables
    values = {
      name: jnp.where(inputs[f'{name}_present'][:, None], inputs[name], 0)
      for name in self.encoders
    }
    return values | {'fused': values['a'] + values['b']}


SCALE = {'a': 1.0, 'b': 1.0}
TELLING = jax.jit(evaluate.make_predict(Told(), SCALE, tells_missing=True))
BATCH = {
  'a': np.array([[1.0], [-2.0], [5.0]], np.float32),
  'b': np.array([[1.0], [4.0], [5.0]], np.float32),
  'a_present': np.array([True, False, True]),
  'score': np.array([2.0, 3.0, 9.0]),
  'mask': np.array([True, True, False]),
}


def evaluated(predict, batch):
  return evaluate.evaluate(
    predict,
    None,
    [batch],
    modalities='ab',
    metrics=['mean_absolute_error'],
    thorough=False,
    target='score',
  )


def test_a_model_knows_what_is_missing_by_the_configuration_or_the_rows():
  whole = {name: BATCH[name] for name in 'ab'}
  quiet, telling = (
    jax.jit(evaluate.make_predict(Echo('a', 'b'), SCALE, tells_missing=tells))
    for tells in (False, True)
  )
  case = condition([True, False], 0.0)
  assert quiet(None, whole, case, 0).keys() == {'a', 'b'}
  told = telling(None, whole, case, 0)
  assert told['a_present'].tolist() == [True] * 3
  assert told['b_present'].tolist() == [False] * 3
  for predict in (quiet, telling):
    told = predict(None, BATCH, case, 0)
    assert told['a_present'].tolist() == [True, False, True]
  told = quiet(None, BATCH, condition([False, True], 0.0), 0)
  assert told['a_present'].tolist() == [False] * 3


def test_uni_modal_outputs_are_scored_on_rows_with_the_modality():
  scores = evaluated(TELLING, BATCH)
  expected = {
    'a': 1.0,  # of 1, which should be 2
    'b': 1.0,
    'fused': 0.5,  # 2 and 4
    'heads': 1.0,  # 1, the mean of both, and 4, of b alone
    'all': 5 / 6,  # 4/3 and 4
  }
  for name, score in expected.items():
    found = scores[f'mean_absolute_error/{name}']
    np.testing.assert_allclose(found, score, rtol=1e-6)
  none = BATCH | {'a_present': np.array([False, False, True])}
  scores = evaluated(TELLING, none)
  assert np.isnan(scores['mean_absolute_error/a'])  # the third row is padding
  assert scores['mean_absolute_error/heads'] == 1.0


@pytest.mark.parametrize('num_variants', [1, 2])
def test_variants_of_a_seed_lack_the_same_modalities(num_variants):
  other = BATCH | {'a_present': np.array([False, True, True])}
  seeds = [BATCH, other]
  predict = jax.vmap(
    evaluate.make_predict(Told(), SCALE), in_axes=(None, 0, None, None)
  )

  @jax.jit
  def of_runs(variables, batch, case, index):
    batch = {'b_present': np.ones((2, 3), bool)} | batch
    found = predict(variables, batch, case, index)
    return jax.tree.map(
      lambda leaf: jnp.concatenate([leaf] * num_variants), found
    )

  together = {
    name: np.stack([one[name] for one in seeds]) for name in BATCH
  } | {
    name: np.stack([one[name] for one in seeds] * num_variants)
    for name in ('mask', 'score')
  }
  scores = evaluated(of_runs, together)
  for i, batch in enumerate(seeds * num_variants):
    for name, score in evaluated(TELLING, batch).items():
      np.testing.assert_allclose(scores[name][i], score, rtol=1e-6)
