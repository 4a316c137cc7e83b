"""Runs of a method that has parameters in addition to the model's."""

import json

import chex
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from experiments import train
from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import data
from experiments.core import exporting
from experiments.core import grouping
from experiments.core import trained
from experiments.core import training
from experiments.core import variants
from experiments.evaluate import __main__ as evaluate
from tests import checks
from tests import running

pytestmark = pytest.mark.usefixtures('reused_programs')
KEY = 'method.reconstruction'


def config_of(words='two,smoke,mcr', reconstruction=0.7, **changes):
  config = handwritten.get_config(words)
  config.update(changes)
  values = {KEY: reconstruction, 'method.permutations': 2}
  return configuration.with_values(config, values)


def stepped(config, steps=4):
  """Returns the first state, the last one, and the losses of the steps."""
  experiment, before, batch = running.begun(config)
  state, step, losses = before, jax.jit(experiment.train_step), []
  for _ in range(steps):
    state, metrics = step(state, batch)
    losses.append(metrics['losses']['reconstruction'])
  return before, state, np.array(losses)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A run that was stopped and resumed."""
  path = tmp_path_factory.mktemp('runs')
  with running.ending_at(13), pytest.raises(KeyboardInterrupt):
    train.train(config_of(), path / 'run')
  scores = train.train(config_of(), path / 'run')
  (path / 'run' / 'scores.json').write_text(json.dumps(scores))
  return path / 'run'


def test_a_resumed_run_is_as_if_undisturbed(workdir, tmp_path):
  train.train(config_of(), tmp_path)
  running.assert_same_run(workdir, tmp_path, config_of())


def test_evaluation_uses_the_model_without_the_extra_parameters(workdir):
  run = trained.load(workdir)
  assert {'hidden', 'features'} == {*run.state.params['beside']}
  scores = json.loads((workdir / 'scores.json').read_text())
  assert evaluate.evaluate(workdir) == scores
  found, *_ = run.predict_split('test')
  inputs = data.open_data(run.config, 0)
  batch = next(iter(inputs.evaluation('test')))
  inputs.train.close()
  model = {k: v for k, v in run.state.params.items() if k != 'beside'}
  alone = run.experiment.model.apply({'params': model}, batch)
  np.testing.assert_allclose(
    found['fused'][: len(batch['label'])], alone['fused'], atol=1e-4
  )


def test_another_run_can_begin_with_exported_parameters(workdir, tmp_path):
  run = trained.load(workdir)
  exporting.export(run, tmp_path)
  path = tmp_path / 'params.safetensors'
  model = {k: v for k, v in run.state.params.items() if k != 'beside'}
  assert len(safetensors.load_file(path)) == len(jax.tree.leaves(model))
  for factor in (0.0, 0.7):
    config = config_of(reconstruction=factor, warm_start=(f'={path}',))
    _, state, _ = running.begun(config)
    own = state.params.pop('beside', None)
    assert (own is None) == (factor == 0)
    chex.assert_trees_all_equal(state.params, model)


def test_its_name_can_be_used_in_frozen_and_learning_rates():
  whole = ('encoders_*', 'heads_*', 'fusion')
  for changes, moved in (
    ({'frozen': whole}, {'beside'}),
    (
      {'learning_rates': ('beside/hidden=0', '*/features=0')},
      {'encoders_fou', 'encoders_pix', 'heads_fou', 'heads_pix', 'fusion'},
    ),
  ):
    before, after, losses = stepped(config_of(**changes))
    found = running.moved(before.params, after.params)
    assert moved == {k for k in found if any(jax.tree.leaves(found[k]))}
    if moved == {'beside'}:  # the network goes on learning the batch
      assert np.all(np.diff(losses) < 0)
  with pytest.raises(ValueError, match=r"'besides'.*\['beside', 'encoders_fou"):
    stepped(config_of(frozen=('besides',)), steps=1)


def test_a_sweep_has_the_network_whatever_the_factor():
  config = config_of()
  inputs = data.open_data(config, 0)
  tried = [variants.Variant({KEY: value}) for value in (0.0, 0.7)]
  (group,) = grouping.groups(config, tried, inputs)
  assert group.traced == (KEY,)
  batch = next(inputs.train)
  inputs.train.close()

  def of_a_step(config):
    experiment = training.make(config, 15)
    state = experiment.init(jax.random.key(0), batch)
    state, metrics = experiment.train_step(state, batch)
    return state.params, metrics['losses']

  step = jax.jit(
    lambda value: of_a_step(configuration.with_values(config, {KEY: value}))
  )
  params, losses = step(0.7)
  after, known = jax.jit(lambda: of_a_step(config))()
  np.testing.assert_allclose(
    losses['reconstruction'], known['reconstruction'], rtol=1e-5
  )
  checks.assert_close(params, after, rtol=1e-7, atol=1e-5)
  # With a factor of 0.0 the model learns as without the network.
  params, losses = step(0.0)
  assert losses['reconstruction'] == 0 and params.pop('beside')
  alone, _ = jax.jit(lambda: of_a_step(config_of(reconstruction=0.0)))()
  checks.assert_close(params, alone, rtol=1e-7, atol=1e-5)
