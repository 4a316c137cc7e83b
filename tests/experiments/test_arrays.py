"""From a user's own file or folder to a trained model."""

import csv

import jax
import numpy as np
import pytest

from experiments import compare
from experiments import predict
from experiments import sweep
from experiments import train
from experiments.configs import arrays
from experiments.core import trained
from experiments.report import results as results_lib
from mimo_jax import nn


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  random = np.random.RandomState(0)
  label = random.randint(0, 3, 240)
  where = tmp_path_factory.mktemp('arrays') / 'mine.npz'
  vector = 3 * np.eye(3, 6)[label] + random.normal(size=(240, 6))
  vector[::8] = np.nan  # which lack it
  np.savez(
    where,
    vector=vector,
    steps=random.normal(size=(240, 4, 2)) + label[:, None, None],
    steps_length=random.randint(1, 5, 240),
    photo=(50 * label[:, None, None] + np.zeros((240, 8, 8))).astype(np.uint8),
    label=np.array(['c0', 'c1', 'c2'])[label],
    label_present=np.arange(240) % 12 != 5,
    group=np.arange(240) // 2,
  )
  return where


def with_vectors(path, steps):
  """Makes a configuration whose encoders compile fast, evaluated once."""
  config = arrays.get_config(f'{path},smoke')
  config.steps = config.log_every_steps = config.checkpoint_every_steps = steps
  config.evaluation.noise_levels = ()
  with config.unlocked():
    del config.model.encoders['steps']
    config.model.encoders.photo = {'name': 'tests.standins:Flat'}
  return config


def test_encoders_are_chosen_by_shape_and_can_be_changed(path):
  config = arrays.get_config(f'{path},mimo_1')
  encoders = config.model.encoders
  assert {name: e.name for name, e in encoders.items()} == {
    'vector': 'MLP',
    'steps': 'GRU',
    'photo': 'LeNet',
  }
  assert config.model.num_classes == 3
  assert dict(config.data.missing_rate) == {'vector': 'stored'}
  assert config.weighting.penalty == 1.0
  config.model.encoders.vector.widths = (7,)
  config = arrays.get_config(f'{path},transformer')
  encoders = config.model.encoders.to_dict()
  assert encoders['steps'].pop('name') == 'Transformer'
  inputs = np.ones((3, 4, 2), np.float32)
  model = nn.Transformer(**encoders.pop('steps'))
  shapes = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)
  assert shapes[0].shape == (3, 64)
  assert {one['name'] for one in encoders.values()} == {'MLP', 'LeNet'}


def test_recipes_can_be_compared_on_a_file(path, tmp_path):
  config = with_vectors(path, steps=40)
  config.compare = ('joint', 'mimo_1')
  compare.compare(config, tmp_path)
  scores = results_lib.read(tmp_path).scores
  for recipe in config.compare:
    assert np.mean(scores[recipe]['accuracy/fused']) > 0.7


def test_a_sweep_can_use_a_file(path, tmp_path):
  config = with_vectors(path, steps=20)
  config.sweep.grid = {'weighting': {'penalty': (0.5, 2.0)}}
  sweep.sweep(config, tmp_path)
  found = results_lib.read(tmp_path)
  assert len(found.variants) == 2
  for scores in found.scores.values():
    assert np.isfinite(scores['accuracy/fused']).all()


def test_a_model_can_be_trained_on_a_file(path, tmp_path):
  config = arrays.get_config(f'{path},smoke')
  with config.unlocked():
    config.model.encoders.photo = {'name': 'tests.standins:Flat'}
  config.steps = 2
  assert np.isfinite(train.train(config, tmp_path)['accuracy/fused'])
  run = trained.load(tmp_path)
  rows = {
    'steps': np.random.RandomState(1).normal(size=(3, 4, 2)).astype(np.float32),
    'steps_length': np.array([4, 2, 1], np.int32),
  }
  assert run.predict(rows)['steps'].shape == (3, 3)
  # The file has labels; rows without one get predictions, too.
  table = predict.predict(tmp_path, path)
  with table.open() as file:
    named = [row['fused'] for row in csv.DictReader(file)]
    names = set(named)
  assert names <= {'c0', 'c1', 'c2'} and len(named) == 240
  with predict.predict(tmp_path).open() as file:
    of_test = list(csv.DictReader(file))
  label, split = np.load(path)['label'], arrays.arrays.read(path).split
  assert len(of_test) == (split == 'test').sum()
  for line in of_test:
    assert split[int(line['row'])] == 'test'
    assert label[int(line['row'])] == line['label']
    assert named[int(line['row'])] == line['fused']
  (tmp_path / 'rows.csv').write_text('vector,label\n1,c0\n')
  for other, remedy in (('rows.csv', 'is no npz file'), ('.', 'its files')):
    with pytest.raises(ValueError, match=remedy):
      predict.predict(tmp_path, tmp_path / other)
  del rows['steps_length']  # it would be 0, so all rows empty
  with pytest.raises(ValueError, match=r"not given \['steps_length'\]"):
    run.predict(rows)


@pytest.mark.parametrize('arg', ['', 'mimo', 'a.npz,b.npz'])
def test_the_error_without_a_file_shows_what_is_expected(arg, tmp_path):
  with pytest.raises(ValueError, match=r'expected one.*arrays.py:FILE.npz'):
    arrays.get_config(arg)
  with pytest.raises(ValueError, match='names 2 files'):
    arrays.get_config('a.NPZ,b.CSV')
  (tmp_path / 'cats').mkdir()
  with pytest.raises(FileNotFoundError, match=r'no CSV, and no train\.npz'):
    arrays.get_config(str(tmp_path))


@pytest.mark.parametrize(
  'name', ['fused', 'heads', 'all', 'mask', 'eye_present', 'left.hand']
)
def test_names_that_the_model_has_or_that_are_invalid_are_refused(
  tmp_path, name
):
  label = np.arange(20) % 2
  entries = {name: np.ones((20, 2)), 'eye': np.ones(20), 'label': label}
  np.savez(tmp_path / 'mine.npz', **entries)
  (tmp_path / 'MINE.CSV').write_text(
    '\n'.join([f'{name},eye,label', *(f'w{i},x,{i % 2}' for i in range(20))])
  )
  for path in tmp_path.iterdir():
    remedy = rf'{path}.*{name!r}.*Rename it'
    if name == 'eye_present' and path.suffix == '.npz':  # says what is there
      remedy = rf'{path}: {name!r} .*expected \[rows\] bool.* another name'
    with pytest.raises(ValueError, match=remedy):
      arrays.get_config(str(path))


def test_labels_of_a_single_class_are_refused(tmp_path):
  path = tmp_path / 'mine.npz'
  np.savez(path, eye=np.ones((20, 2)), label=np.array(['open'] * 20))
  message = rf"{path} has labels of .*'open'.*; expected at least two classes"
  with pytest.raises(ValueError, match=message):
    arrays.get_config(str(path))


def test_a_warning_tells_of_a_class_that_is_not_in_train(tmp_path, caplog):
  split = np.repeat(['train', 'validation', 'test'], [10, 5, 5])
  label = np.where(np.arange(20) == 12, 'fox', np.array(['ant', 'bee'] * 10))
  np.savez(tmp_path / 'a.npz', eye=np.ones((20, 2)), label=label, split=split)
  arrays.get_config(str(tmp_path / 'a.npz'))
  assert "no row of train is of ['fox']" in caplog.text


def test_how_the_data_were_read_is_printed_once(tmp_path, caplog, capsys):
  np.savez(
    tmp_path / 'a.npz',
    photo=np.zeros((20, 3, 8, 8)),  # channels first
    id=np.arange(20),
    label=np.arange(20) % 2,
  )
  (tmp_path / 'b.csv').write_text(
    '\n'.join(
      ['photo,age,height,label', *(f'{i}.jpg,{i},7,{i / 9}' for i in range(20))]
    )
  )
  for name in ('a.npz', 'b.csv', 'a.npz'):
    arrays.get_config(str(tmp_path / name))
  assert capsys.readouterr().err.splitlines() == [
    f'{tmp_path}/a.npz: 2 classes (0 10, 1 10); rows: 12 train, 4 validation,'
    ' 4 test',
    '  id: rows [1]; MLP',
    '  photo: rows [3, 8, 8]; LeNet',
    f'{tmp_path}/b.csv: a number to predict; rows: 12 train, 4 validation,'
    ' 4 test',
    '  numbers: number, of age, height; MLP',
    '  photo: picture, of photo; ResNet18',
  ]
  assert "rows of 'photo' have 3 x 8 pixels of 8 channels" in caplog.text
  assert "'id' has a different whole number in each row" in caplog.text


def test_a_warning_tells_of_texts_that_look_like_numbers(tmp_path, caplog):
  lines = [
    f'"{i},{i}",{"N/A" if i == 5 else i % 7},{i} Main St,{i % 2}'
    for i in range(20)
  ]
  path = tmp_path / 'list.csv'
  path.write_text('\n'.join(['price,age,address,label', *lines]))
  arrays.get_config(str(path))
  assert "'price' is used as texts, because '0,0' is no number" in caplog.text
  assert "'age' is used as texts, because 'N/A' is no number" in caplog.text
  assert "'address'" not in caplog.text


def test_a_model_can_use_numbers_beside_texts(tmp_path, monkeypatch, caplog):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
  random = np.random.RandomState(0)
  ages = random.normal(50, 10, 60).round()
  lines = [
    f'p{i},{age},{900 + 3 * age:.2f},{i},{"ab"[int(age > 50)]}'
    for i, age in enumerate(ages)
  ]
  lines[3] = 'p3,,900,3,'  # is left out
  header = 'note,age,weight,eye.patient,label'
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine/list.csv').write_text('\n'.join([header, *lines]))
  config = arrays.get_config(f'{tmp_path}/mine,smoke')
  assert "'eye.patient' has a different whole number in each row" in caplog.text
  assert "'age'" not in caplog.text and "'weight'" not in caplog.text
  view = config.data.views.numbers
  assert view.columns == ('age', 'weight')
  of_train = ages[arrays.folders.read(tmp_path / 'mine').split == 'train']
  np.testing.assert_allclose(view.mean[0], of_train.mean())
  np.testing.assert_allclose(view.std[0], of_train.std())
  with config.unlocked():
    for name in ('note', 'eye'):
      del config.data.views[name]
      del config.model.encoders[name]
      del config.evaluation.noise_scale[name]
    config.model.encoders.other = {'name': 'MLP', 'widths': (4,)}
    config.data.views.other = config.data.views.numbers
    config.evaluation.noise_scale.other = 1.0
  config.steps = 40
  scores = train.train(config, tmp_path / 'run')
  assert scores['accuracy/numbers'] > 0.7
  new = tmp_path / 'new.csv'
  new.write_text('weight,id,age\n850,7,20\n1140,8,80\n,9,nan')
  with predict.predict(tmp_path / 'run', new).open() as file:
    found = [row['numbers'] for row in csv.DictReader(file)]
  assert found == ['a', 'b', '']
  new.write_text('weight,id,age\n850,7,20\n1140,8,')
  with pytest.raises(
    ValueError, match=r"row 1: '(numbers|other)' has no .'age"
  ):
    predict.predict(tmp_path / 'run', new)
