"""A user's own folder whose rows lack modalities."""

import csv

import numpy as np
import PIL.Image
import pytest
import soundfile

from data_pipelines import folders
from data_pipelines import views
from data_pipelines.reading import folder_builder
from data_pipelines.reading import pictures
from experiments import predict
from experiments import train
from experiments.configs import arrays
from experiments.core import data
from experiments.core import trained
from experiments.evaluate import __main__ as evaluation

ROWS = 60
MODALITIES = ('photo', 'voice', 'caption', 'numbers')
HEADER = ('photo', 'voice', 'caption', 'age', 'label', 'split')
SPLITS = ('train', 'train', 'train', 'train', 'validation', 'test')


def write(root, rows, header=HEADER, name='list.csv'):
  with (root / name).open('w', newline='') as file:
    csv.writer(file).writerows([header, *rows])
  return root / name


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Pictures, sounds, texts and numbers; row i lacks the one of place i % 5."""
  root = tmp_path_factory.mktemp('incomplete')
  rows = []
  for i in range(ROWS):
    odd = i // 5 % 2
    grey = np.full((8, 8, 3), 40 + 150 * odd, np.uint8)
    PIL.Image.fromarray(grey).save(root / f'{i}.png')
    tone = np.sin(np.arange(1600) * (0.1 + odd))
    soundfile.write(root / f'{i}.wav', tone, 16_000)
    words = f'the {("even", "odd")[odd ^ (i % 4 == 0)]} one'  # often wrong
    row = [f'{i}.png', f'{i}.wav', words, 30 + 40 * odd + i % 7]
    if i % 5 < 4:
      row[i % 5] = ''
    rows.append([*row, 'ab'[odd], SPLITS[i // 10]])
  write(root, rows)
  return root


def with_small_encoders(root):
  """Makes a configuration of small inputs whose encoders compile fast."""
  config = arrays.get_config(f'{root},smoke')
  config.data.views.photo.size = 8
  config.data.views.voice.name = 'tests.standins:Samples'
  config.steps = config.log_every_steps = config.checkpoint_every_steps = 40
  with config.unlocked():
    for name in ('photo', 'voice'):
      config.model.encoders[name] = {'name': 'tests.standins:Flat'}
  return config


@pytest.fixture(scope='module')
def run(root, tmp_path_factory):
  """The directory of a run on that folder, its scores, and prepared data."""
  where = tmp_path_factory.mktemp('run')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TFDS_DATA_DIR', str(where / 'prepared'))
    scores = train.train(with_small_encoders(root), where / 'run')
    yield where / 'run', scores


def predicted(run, path):
  with predict.predict(run, path).open() as file:
    lines = list(csv.DictReader(file))
  return {name: np.array([line[name] for line in lines]) for name in lines[0]}


def test_a_model_learns_from_the_modalities_that_each_row_has(root, run):
  config = with_small_encoders(root)
  assert dict(config.data.missing_rate) == dict.fromkeys(MODALITIES, 'stored')
  chosen = arrays.get_config(str(root)).model.encoders.values()
  assert [one.name for one in chosen] == ['MLP', 'MLP', 'ResNet18', 'ResNet18']
  where, scores = run
  assert scores['accuracy/fused'] > 0.9
  model, table = trained.load(where), folders.read(root)
  new = predicted(where, root)
  for split in ('train', 'validation', 'test'):
    outputs, targets, rows = model.predict_split(split)
    assert set(rows) == set(np.flatnonzero(table.split == split))
    assert len(targets) == len(rows)  # none is left out
    np.testing.assert_array_equal(targets, table.target.label[rows])
    best = np.argmax(outputs['fused'], axis=1)
    assert new['fused'][rows].tolist() == ['ab'[i] for i in best]
    scored = evaluation.evaluate(where, split)
    for place, name in enumerate(MODALITIES):
      here = rows % 5 != place
      assert 0 < here.sum() < len(rows)
      np.testing.assert_array_equal(
        np.isfinite(outputs[name]).all(axis=1), here
      )
      np.testing.assert_array_equal(new[name][rows] != '', here)
      right = np.argmax(outputs[name][here], axis=1) == targets[here]
      np.testing.assert_allclose(scored[f'accuracy/{name}'], right.mean())
    assert scored['accuracy/caption'] < 1


def test_what_stands_in_for_a_missing_modality_has_no_influence(
  root, run, tmp_path, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
  white = [pictures.jpeg(np.full((9, 9, 3), 255, np.uint8))]
  noise = np.random.RandomState(0).randint(-9999, 9999, 4000).astype(np.int16)
  others = {'picture': white, 'sound': noise, 'text': 'odd', 'number': 7.0}
  monkeypatch.setattr(folder_builder, '_NOTHING', others)
  scores = train.train(with_small_encoders(root), tmp_path / 'run')
  assert scores == run[1]


def test_views_under_other_names_lack_what_they_read(
  root, tmp_path, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
  config = arrays.get_config(f'{root},smoke')
  with config.unlocked():
    for new, old in (('look', 'photo'), ('years', 'numbers')):
      for part in (config.model.encoders, config.data.views):
        part[new] = part[old]
      config.evaluation.noise_scale[new] = 1.0
      config.data.missing_rate[new] = 'stored'
  batch = next(data.open_data(config, 3).train)
  assert 0 < np.mean(batch['photo_present']) < 1
  for new, old in (('look', 'photo'), ('years', 'numbers')):
    for entry in ('', '_present'):
      np.testing.assert_array_equal(batch[new + entry], batch[old + entry])
  for name, rate in (('look', 0.3), ('years', 0.0), ('caption', 0.0)):
    config.data.missing_rate[name] = rate
    with pytest.raises(ValueError, match=f'missing_rate of {name!r} to .stor'):
      data.open_data(config, 3)
    config.data.missing_rate[name] = 'stored'


def test_an_empty_column_of_new_rows_is_as_if_it_were_left_out(root, run):
  lines = [[f'{i}.png', '', '', 30 + 40 * (i // 5 % 2)] for i in range(10)]
  empty = predicted(run[0], write(root, lines, HEADER[:4], 'empty.csv'))
  lines = [[line[0], line[3]] for line in lines]
  left_out = predicted(run[0], write(root, lines, ('photo', 'age'), 'out.csv'))
  for name, values in empty.items():
    np.testing.assert_array_equal(values, left_out[name])
  assert set(empty['voice']) == set(empty['caption']) == {''}
  assert '' not in {*empty['photo'], *empty['numbers'], *empty['fused']}
  none = write(root, [['', ''], ['', '']], ('photo', 'age'), 'none.csv')
  with pytest.raises(ValueError, match='and not only empty cells there'):
    predict.predict(run[0], none)
  for path in root.glob('*.csv'):
    if path.name != 'list.csv':
      path.unlink()


def test_a_folder_and_a_file_of_the_same_rows_train_the_same_model(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
  random = np.random.RandomState(0)
  label = random.randint(0, 2, ROWS)
  ages = random.randint(20, 60, ROWS) + 9 * label
  notes = [
    f'w{word} w{6 + one}' for word, one in zip(ages % 6, label, strict=True)
  ]
  rows = [
    [note, age, 'ab'[one]]
    for note, age, one in zip(notes, ages, label, strict=True)
  ]
  for i, row in enumerate(rows):
    if i % 3 < 2:
      row[i % 3] = ''
  write(tmp_path, rows, ('note', 'age', 'label'))
  config = arrays.get_config(f'{tmp_path}/list.csv,smoke')
  here = np.arange(ROWS) % 3 != np.array([[0], [1]])
  bag = views.HashedWords('note', config.data.views.note.num_features)
  taught = ages[(folders.read(tmp_path).split == 'train') & here[1]]
  view = config.data.views.numbers
  np.testing.assert_allclose(view.mean, taught.mean())
  np.testing.assert_allclose(view.std, taught.std())
  numbers = (ages - view.mean[0]) / view.std[0]
  np.savez(
    tmp_path / 'mine.npz',
    note=[bag({'note': note}, None) for note in notes],
    note_present=here[0],
    numbers=np.where(here[1], numbers, np.nan).astype(np.float32),
    label=np.array(['a', 'b'])[label],
  )
  same = arrays.get_config(f'{tmp_path}/mine.npz,smoke')
  same.data.standardize = False
  same.data.batch_size = config.data.batch_size
  same.evaluation = config.evaluation
  assert same.data.missing_rate == config.data.missing_rate
  assert same.model == config.model
  first, second = (data.open_data(each, 3) for each in (config, same))
  one, other = next(first.train), next(second.train)
  assert one.keys() == other.keys()
  for name in one:
    has = one.get(f'{name}_present', np.True_)
    np.testing.assert_array_equal(one[name][has], other[name][has])
  scores = []
  for each in (config, same):
    each.steps = 30
    scores.append(train.train(each, tmp_path / each.data.name))
  assert scores[0].keys() == scores[1].keys()
  for name, score in scores[0].items():
    np.testing.assert_allclose(score, scores[1][name], rtol=1e-5, err_msg=name)
