"""Training on rows that lack modalities."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import train
from experiments.core import configuration
from experiments.core import data
from experiments.core import exporting
from experiments.core import placement
from experiments.core import presence
from experiments.core import trained
from experiments.core import training
from tests import running
from tests.running import smoke


def lacking(recipe='mgda', rate=0.4):
  config = smoke(data={'missing_rate': rate})
  return configuration.with_recipe(config, recipe)


@functools.cache
def started(recipe):
  """Returns a batch, an experiment's first state, and the next state."""
  experiment, state, batch = running.begun(lacking(recipe), 3)
  return dict(batch), state, jax.jit(experiment.train_step)


def moves(step, state, batch, module):
  """Returns how far a step moves a module's params."""
  after, _ = step(state, batch)
  change = jax.tree.map(
    jnp.subtract, after.params[module], state.params[module]
  )
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(change)])


def test_without_a_rate_batches_and_programs_are_unchanged():
  plain, zero = smoke(), smoke(data={'missing_rate': {'fou': 0.0}})
  assert plain.data.missing_rate == 0
  ours, theirs = (running.batches_of(one, 3, 2) for one in (plain, zero))
  for one, other in zip(ours, theirs, strict=True):
    assert one.keys() == other.keys() == {'fou', 'pix', 'label', 'row'}
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_missing_modalities_are_the_same_in_every_epoch_but_not_split():
  config = lacking(rate={'fou': 0.5})
  batches = running.batches_of(config, 3, 40)  # more than two epochs
  told = {}
  for batch in batches:
    for row, here in zip(batch['row'], batch['fou_present'], strict=True):
      told.setdefault(int(row), []).append(bool(here))
    assert 'pix_present' not in batch
  assert min(map(len, told.values())) >= 2
  assert all(len(set(of_row)) == 1 for of_row in told.values())
  share = np.mean([not of_row[0] for of_row in told.values()])
  assert abs(share - 0.5) < 0.08  # five standard errors of 1,000 rows
  # A resumed run continues with the same ones.
  again = data.open_data(config, 3).train
  again.seek(39)
  last = next(again)
  assert all(np.array_equal(last[name], batches[39][name]) for name in last)
  other = running.batches_of(config, 4, 1)[0]
  here = [told[int(row)][0] for row in other['row']]
  assert here != other['fou_present'].tolist()


@pytest.mark.parametrize('in_memory', [True, False])
@pytest.mark.parametrize('too', [True, False])
def test_views_and_other_splits_mark_missing_modalities(in_memory, too):
  config = lacking(rate={'fou': 0.5})
  scaled = {
    name: {'name': 'Scaled', 'source': name, 'divisor': 2.0}
    for name in ('fou', 'pix')
  }
  values = {'data.in_memory': in_memory, 'data.views': scaled}
  values['evaluation.missing'] = too
  config = configuration.with_values(config, values)
  opened = data.open_data(config, 3)
  assert 0 < np.mean(next(opened.train)['fou_present']) < 1
  found = next(iter(opened.evaluation('validation')))
  assert ('fou_present' in found) == too
  if too:
    assert 0 < np.mean(found['fou_present']) < 1


@pytest.mark.parametrize('recipe', ['mgda', 'mimo_3', 'unimodal'])
def test_missing_modalities_have_no_influence(recipe):
  batch, state, step = started(recipe)
  here = batch['fou_present']
  assert 0 < np.sum(here) < len(here)
  assert np.all(here | batch['pix_present'])
  other = batch | {'fou': np.where(here[:, None], batch['fou'], np.nan)}
  ours, theirs = (step(state, one) for one in (batch, other))
  for one, two in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
    if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
      np.testing.assert_array_equal(one, two)
  # Present ones have influence, so the test could fail.
  changed = batch | {'fou': np.where(here[:, None], 2 * batch['fou'], 0)}
  assert np.any(
    moves(step, state, changed, 'encoders_fou')
    != moves(step, state, batch, 'encoders_fou')
  )


def test_rows_that_lack_a_modality_do_not_train_its_uni_modal_model():
  """Neither their values nor their labels matter."""
  config = lacking('pretrained_finetuned')
  (batch,) = running.batches_of(config, 3, 1)
  experiment = training.make(config, 15)
  (walk,) = experiment.rehearsal.passes
  here = batch['fou_present']
  assert 0 < np.sum(here) < len(here)

  @jax.jit
  def learnt(other):
    state = experiment.init(jax.random.key(7), batch)
    copy = experiment.rehearsal.begin(state, batch)
    copy = walk.step(state, copy, other)
    params = experiment.rehearsal.end(state, copy).params
    return params['encoders_fou'], params['heads_fou']

  def changed_at(rows):
    label = np.where(rows, (batch['label'] + 1) % 10, batch['label'])
    fou = np.where(rows[:, None], 9.0, batch['fou'])
    return dict(batch) | {'fou': fou, 'label': label}

  ours = learnt(dict(batch))
  chex.assert_trees_all_equal(ours, learnt(changed_at(~here)))
  with pytest.raises(AssertionError):  # so the check can fail
    chex.assert_trees_all_equal(ours, learnt(changed_at(here)))


def test_losses_are_means_over_the_rows_that_have_a_modality():
  batch, state, step = started('joint')
  _, metrics = step(state, batch)
  here = batch['fou_present']
  # In a batch of only these rows, the loss is the same.
  own = {name: value[here] for name, value in batch.items()}
  _, alone = step(state, own)
  np.testing.assert_allclose(
    metrics['losses']['fou'], alone['losses']['fou'], rtol=1e-5
  )
  assert metrics['losses']['fused'] != alone['losses']['fused']


@pytest.mark.parametrize('recipe', ['joint', 'mgda', 'mimo_3', 'ensemble'])
def test_a_modality_absent_from_a_batch_has_no_weight_and_does_not_move(recipe):
  batch, state, step = started(recipe)
  nowhere = np.zeros_like(batch['fou_present'])
  batch = batch | {'fou_present': nowhere, 'pix_present': ~nowhere}
  after, metrics = step(state, batch)
  assert float(metrics['weights']['fou']) == 0
  assert float(metrics['losses']['fou']) == 0
  assert float(metrics['weights']['pix']) > 0
  floats = [
    leaf
    for leaf in jax.tree.leaves((after, metrics))
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  ]
  assert all(np.all(np.isfinite(leaf)) for leaf in floats)
  assert not np.any(moves(step, state, batch, 'encoders_fou'))
  assert np.any(moves(step, state, batch, 'encoders_pix'))


@pytest.mark.parametrize('recipe', ['mgda', 'mimo_3'])
def test_devices_average_over_all_rows_wherever_they_are(recipe):
  batch, state, step = started(recipe)
  # The first device has no row with the modality, the second one some.
  is_second = np.arange(len(batch['label'])) >= len(batch['label']) // 2
  batch = batch | {
    'fou_present': batch['fou_present'] & is_second,
    'pix_present': batch['pix_present'] | ~is_second,
  }
  devices = placement.make('pmap', jax.devices()[:2])
  experiment = training.make(lacking(recipe), 15, devices)
  parallel = devices.step(experiment.train_step, state, donate=False)
  ends = []
  for first, take in ((state, step), (devices.put(state), parallel)):
    after = first
    for _ in range(2):
      after, metrics = take(after, batch)
    ends.append(jax.device_get((after.params, metrics)))
  assert 0 < ends[0][1]['losses']['fou'] != ends[0][1]['losses']['fused']
  chex.assert_trees_all_close(*ends, rtol=1e-4, atol=1e-6)


def test_methods_that_need_complete_rows_are_refused():
  with pytest.raises(ValueError, match="'pmr' is not known to leave out rows"):
    training.make(lacking('pmr'), 15)
  config = lacking()
  config.accumulation = {'batches': 2, 'balance': 'accumulated'}
  with pytest.raises(ValueError, match=r"Expected 'each' with config\.data"):
    training.make(config, 15)
  for rate in ('strored', {'fou': 'strored'}):
    message = r"missing_rate has \['strored'\]; expected .*'stored'"
    with pytest.raises(ValueError, match=message):
      presence.missing_rates(smoke(data={'missing_rate': rate}))
  with pytest.raises(ValueError, match=r"missing_rate has \['sound'\]"):
    training.make(lacking(rate={'sound': 0.1}), 15)


@pytest.mark.slow
def test_missing_modalities_are_respected_wherever_a_run_is_used(tmp_path):
  config = lacking(rate={'fou': 0.3})
  config.model.absent = 'token'
  config.evaluation.missing = True
  train.train(config, tmp_path / 'run')
  run = trained.load(tmp_path / 'run')
  assert run.inputs.keys() == {'fou', 'pix'}
  found, *_ = run.predict_split('test')
  share = np.mean(np.isnan(found['fou']))
  assert abs(share - 0.3) < 0.08  # five standard errors of 800 rows
  for name in ('fused', 'heads', 'all', 'pix'):
    assert np.all(np.isfinite(found[name]))
  rows = {
    name: np.random.default_rng(0).uniform(0, 1, (3, *one.shape)).astype('f4')
    for name, one in run.inputs.items()
  }
  without = run.predict({'pix': rows['pix']})
  # The fusion has learned a token, which differs from the features of zeros.
  encoded = run.experiment.model.apply(
    run.state.variables,
    {name: jnp.zeros((1, *run.inputs[name].shape)) for name in rows},
    method='features',
  )
  token = run.state.params['tokens_fou']['token']
  assert np.any(token != 0) and np.any(token != encoded['fou'][0])
  exporting.export(run, tmp_path / 'export')
  blob = (tmp_path / 'export' / 'model.jax_export').read_bytes()
  program = jax.export.deserialize(blob)
  outputs = program.call(rows, np.array([False, True]))
  np.testing.assert_allclose(
    outputs['fused'], without['fused'], rtol=1e-4, atol=1e-5
  )
