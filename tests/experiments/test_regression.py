"""From a user's own file with numbers as labels to predictions."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import predict
from experiments import probe
from experiments import train
from experiments.configs import arrays
from experiments.core import data
from experiments.core import exporting
from experiments.core import trained
from experiments.evaluate import __main__ as evaluating
from experiments.evaluate import units
from experiments.methods import recipes
from experiments.study import planning
from experiments.study import studies

ROWS = 120
# The same targets in two units, metres and thousandths of a foot.
UNITS = {'near': (1.0, 0.0), 'far': (1000.0, 5e5)}


def rows(unit):
  random = np.random.RandomState(0)
  label = random.normal(2.0, 3.0, ROWS)
  left = label[:, None] + random.normal(size=(ROWS, 3))
  left[::9] = np.nan  # which lack it
  right = label[:, None] + 4 * random.normal(size=(ROWS, 2))
  scale, shift = UNITS[unit]
  label = np.where(np.arange(ROWS) % 11 == 3, np.nan, label * scale + shift)
  return {'left': left, 'right': right, 'label': label}


@pytest.fixture(scope='module')
def runs_of_units(tmp_path_factory):
  found = {}
  for unit in UNITS:
    root = tmp_path_factory.mktemp(unit)
    np.savez(root / 'mine.npz', **rows(unit))
    config = arrays.get_config(f'{root}/mine.npz,smoke')
    config.evaluation.noise_levels = (1.0,)
    config.steps = config.log_every_steps = config.checkpoint_every_steps = 60
    for encoder in config.model.encoders.values():
      encoder.widths = (8,)
    found[unit] = root / 'run', train.train(config, root / 'run')
  return found


def test_numbers_as_labels_give_a_configuration_of_a_regression(tmp_path):
  label = np.arange(ROWS) % 7 * 10
  entries = {'left': np.ones((ROWS, 2)), 'label': label}
  np.savez(tmp_path / 'a.npz', **entries)
  config = arrays.get_config(f'{tmp_path}/a.npz,regression')
  assert config.loss == 'absolute_error_losses'
  assert config.model.num_classes == 1 and config.data.classes == ()
  assert config.data.config == f'{tmp_path}/a.npz,regression'
  assert config.evaluation.metrics[0] == 'mean_absolute_error'
  taught = config.data.target_mean, config.data.target_std
  table = arrays.arrays.read(config.data.config)
  of_train = table.target.label[table.split == 'train']
  np.testing.assert_allclose(taught, (of_train.mean(), of_train.std()))
  config = arrays.get_config(f'{tmp_path}/a.npz')
  assert config.model.num_classes == 7
  assert units.Units.of(config) == units.PLAIN
  np.savez(tmp_path / 'a.npz', **entries | {'label': np.full(ROWS, 2.5)})
  with pytest.raises(ValueError, match=r'label 2\.5 in all rows of train'):
    arrays.get_config(f'{tmp_path}/a.npz')


def test_training_does_not_depend_on_the_unit_of_the_target(runs_of_units):
  (_, near), (_, far) = (runs_of_units[unit] for unit in UNITS)
  label = rows('near')['label']
  assert near['mean_absolute_error/fused'] < 0.5 * np.nanstd(label)
  for name, value in near.items():
    is_alike = name.startswith('correlation/')
    expected = value if is_alike else 1000 * value
    np.testing.assert_allclose(far[name], expected, rtol=1e-3, err_msg=name)


def test_predictions_scores_and_exports_are_in_the_unit_of_the_target(
  runs_of_units,
):
  run, scores = runs_of_units['far']
  model = trained.load(run)
  found, targets, _ = model.predict_split('test')
  assert targets.min() > 4e5 and not np.isnan(targets).any()
  error = np.mean(np.abs(found['fused'][:, 0] - targets))
  np.testing.assert_allclose(error, scores['mean_absolute_error/fused'])
  anew = evaluating.evaluate(run)
  np.testing.assert_allclose(
    anew['mean_absolute_error/heads'], scores['mean_absolute_error/heads']
  )
  inputs = {k: v.astype(np.float32) for k, v in rows('far').items()}
  table = predict.predict(run, run.parent / 'mine.npz')
  with table.open() as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == ROWS and lines[0]['left'] == ''
  own = np.array([float(line['right']) for line in lines])
  whole = model.predict({k: inputs[k] for k in ('left', 'right')})
  np.testing.assert_allclose(own, whole['right'][:, 0], rtol=1e-6)
  heads = [float(line['heads']) for line in lines]
  np.testing.assert_allclose(
    heads, np.nanmean([whole['left'], whole['right']], axis=0)[:, 0], rtol=1e-6
  )
  exporting.export(model, run / 'export')
  program = jax.export.deserialize(
    (run / 'export/model.jax_export').read_bytes()
  )
  some = {k: inputs[k][1:9] for k in ('left', 'right')}
  np.testing.assert_allclose(
    program.call(some, np.ones(2, bool))['fused'],
    whole['fused'][1:9],
    rtol=1e-5,
  )
  described = json.loads((run / 'export/inputs.json').read_text())
  assert described['classes'] == []


def test_targets_are_standardised_in_the_training_step(runs_of_units):
  config = trained.load(runs_of_units['far'][0]).config
  mean, std = config.data.target_mean, config.data.target_std
  batch = {'label': jnp.array([mean - std, mean]), 'left': jnp.ones((2, 3))}
  made = data.finish(config)(batch)
  np.testing.assert_allclose(made['label'], [-1, 0], atol=1e-4)
  np.testing.assert_array_equal(made['left'], batch['left'])
  config.unlock()
  config.data.target_std = 0.0
  with pytest.raises(ValueError, match=r'target_std is 0\.0; expected a numb'):
    data.finish(config)


def test_a_probe_which_is_a_classifier_is_refused(runs_of_units):
  run, _ = runs_of_units['near']
  with pytest.raises(ValueError, match=r'is a regression\. Probes are classif'):
    probe.probe(run)


def test_a_study_leaves_out_recipes_that_need_classes(tmp_path):
  entries = {k: v for k, v in rows('near').items() if k != 'left'}
  np.savez(tmp_path / 'a.npz', **entries, other=np.ones((ROWS, 2)))
  study = studies.named(f'arrays:{tmp_path}/a.npz')
  (plan,) = planning.plans(study, tmp_path / 'studies').values()
  config = plan.config()
  assert {'joint', 'sum', 'mgda', 'mimo', 'ensemble'} <= set(config.compare)
  assert 'is defined for classes' in config.left_out['ogm_ge']
  assert {*config.compare, *config.left_out} >= set(recipes.tuned())
