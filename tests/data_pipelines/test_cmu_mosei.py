"""CMU-MOSEI and CMU-MOSI: their pickles as stored, and broken ones."""

import functools
import pathlib
import pickle
import re

import numpy as np
import pytest

from data_pipelines.cmu_mosei import tree
from data_pipelines.reading import feature_sequences
from tests import clips

COUNTS = {'train': 42, 'validation': 14, 'test': 14}
PARTS = {'train': 'train', 'validation': 'valid', 'test': 'test'}
MODALITIES = ('vision', 'audio', 'text')
FILES = {
  'mosei': 'mosei_senti_data.pkl',
  'mosei_unaligned': 'mosei_senti_data_noalign.pkl',
  'mosi': 'mosi_data.pkl',
  'mosi_unaligned': 'mosi_data_noalign.pkl',
}

NAME = 'cmu_mosei'

opened = functools.partial(clips.opened, NAME)


def raw(root, config='mosei'):
  return pickle.loads((root / FILES[config]).read_bytes())


def change(root, function, config='mosei'):
  content = raw(root, config)
  function(content)
  (root / FILES[config]).write_bytes(pickle.dumps(content))


@pytest.mark.parametrize('config', FILES)
def test_stored_values_are_those_of_the_pickle(sample, stored, config):
  content = raw(sample, config)
  for split in COUNTS:
    part = content[PARTS[split]]
    elements = stored('cmu_mosei', split, config)
    assert len(elements) == len(part['id']) == COUNTS[split]
    for row, element in enumerate(elements):
      for name in MODALITIES:
        assert element[name].dtype == np.float32
        np.testing.assert_array_equal(element[name], part[name][row])
      assert element['score'] == part['labels'][row, 0, 0]
      assert element['score'].dtype == np.float32
      video, start, end = (
        each.decode() if isinstance(each, bytes) else each
        for each in part['id'][row].tolist()
      )
      assert clips.ids([element]) == [f'{video}[{start}:{end}]']


def test_the_published_sizes_are_expected():
  sizes = {
    name: [*each.expected.values()] for name, each in tree.SOURCES.items()
  }
  assert sizes['mosi'] == sizes['mosi_unaligned'] == [1_284, 229, 686]
  assert sizes['mosei'] == sizes['mosei_unaligned']
  assert sum(sizes['mosei']) == 22_856


def test_unreadable_items_are_counted_by_reason(
  broken, stored, tmp_path, caplog
):
  def edit(content):
    part = content['train']
    part['labels'][[0, 1, 2], 0, 0] = 3.5, np.nan, -3.01
    part['labels'][3, 0, 0] = -3
    part['text'][[4, 5]] = 0
    vision = list(part['vision'])
    vision[6] = vision[6][1:]
    vision[7] = [[1.0] * 35, [1.0] * 34]
    vision[8] = vision[8][:0]
    vision[9] = [['a'] * 35]
    part['vision'] = vision

  names = clips.ids(stored(NAME))
  change(broken, edit)
  elements = opened(broken, tmp_path / 'data')
  assert clips.ids(elements) == [names[3], *names[10:]]
  reasons = {
    **dict.fromkeys(names[:3], 'label_out_of_range'),
    **dict.fromkeys(names[4:6], 'empty_text'),
    names[6]: 'lengths_differ',
    names[7]: 'corrupt',
    names[8]: 'too_short',
    names[9]: 'corrupt',
  }
  assert clips.skipped(tmp_path / 'data') == reasons
  assert '2 empty_text, 3 label_out_of_range' in caplog.text


def test_unaligned_sequences_may_differ_in_length_and_none_is_cut(
  broken, tmp_path
):
  def edit(content):
    part = content['train']
    part['audio'] = [
      values[-1 - row :] for row, values in enumerate(part['audio'])
    ]

  change(broken, edit, 'mosi_unaligned')
  elements = opened(broken, tmp_path / 'data', config='mosi_unaligned')
  assert [len(each['audio']) for each in elements[:4]] == [1, 2, 3, 4]
  assert len(elements) == COUNTS['train']


@pytest.mark.parametrize('config', ['mosei', 'mosi'])
def test_files_of_multibench_are_read(broken, config):
  """Their ids have one part, video[3]; their arrays are float64."""
  part, file = raw(broken, config), f'{config}_raw.pkl'
  for split, content in part.items():
    content['id'] = [f'{split}[{row}]' for row in range(len(content['id']))]
    content['vision'] = content['vision'].astype(np.float64)
  (broken / file).write_bytes(pickle.dumps(part))
  (broken / FILES[config]).unlink()
  read = feature_sequences.read_packed(broken / file)
  assert list(read['validation'].clips)[:2] == ['valid[0]', 'valid[1]']
  assert read['validation'].videos == {'valid'}
  stored = clips.parts(NAME, broken, config)['test'].read('test[3]', 3)
  np.testing.assert_array_equal(
    stored['vision'], np.float32(part['test']['vision'][3])
  )


def test_files_of_mmsa_are_read(broken, tmp_path):
  mmsa = {}
  for name, part in raw(broken, 'mosi').items():
    rows = len(part['id'])
    mmsa[name] = {
      'raw_text': np.array(['some words'] * rows),
      'vision': part['vision'],
      'audio': part['audio'],
      'text': np.full((rows, 6, 768), 0.5, np.float32),
      'id': [f'{name}$_${row}' for row in range(rows)],
      'annotations': ['Positive'] * rows,
      'classification_labels': np.zeros(rows),
      'regression_labels': np.linspace(-3, 3, rows),
    }
  path = tmp_path / 'mmsa' / 'MOSI' / 'Processed' / 'aligned_50.pkl'
  path.parent.mkdir(parents=True)
  path.write_bytes(pickle.dumps(mmsa))
  found = opened(tmp_path / 'mmsa', tmp_path, 'validation', 'mosi')
  np.testing.assert_array_equal(
    [each['score'] for each in found], np.linspace(-3, 3, 14, dtype=np.float32)
  )
  assert found[0]['text'].shape == (6, 768)
  assert found[5]['clip_id'].item() == b'valid$_$5'
  # The file of MOSEI has the same name, in another folder.
  with pytest.raises(FileNotFoundError, match=r'MOSEI/Processed/aligned_50'):
    opened(tmp_path / 'mmsa', tmp_path / 'data', config='mosei')


def test_a_repeated_clip_is_kept_under_another_name(broken):
  def edit(content):
    content['test']['id'][[4, 9]] = content['test']['id'][2]

  change(broken, edit)
  path = broken / FILES['mosei']
  names = list(feature_sequences.read_packed(path)['test'].clips)
  assert len(names) == COUNTS['test']
  assert [names[4], names[9]] == [f'{names[2]}#2', f'{names[2]}#3']


@pytest.mark.parametrize('config', ['mosei', 'mosi'])
def test_a_warning_tells_of_a_video_in_two_splits(broken, config, caplog):
  path = broken / FILES[config]
  feature_sequences.read_packed(path)
  assert not caplog.text

  def edit(content):
    # Of MOSI's ids, only the number after the video differs.
    content['valid']['id'][3, 0] = content['train']['id'][7, 0]
    content['test']['id'][1, 0] = content['train']['id'][8, 0]

  change(broken, edit, config)
  feature_sequences.read_packed(path)
  assert '1 videos are in more than one split' in caplog.text
  assert 'video000001' in caplog.text


def test_arrays_are_not_copied(sample):
  """MOSEI's unaligned arrays take gigabytes."""
  part = clips.parts(NAME, sample, 'mosei_unaligned')['train']
  one, again = (part.read('clip', 5) for _ in range(2))
  for name in MODALITIES:
    assert np.shares_memory(one[name], again[name])


def drop(*keys):
  def edit(content):
    for key in keys[:-1]:
      content = content[key]
    del content[keys[-1]]

  return edit


def put(part, key, function):
  def edit(content):
    content[part][key] = function(content[part][key])

  return edit


def test_other_layouts_are_refused(broken, tmp_path):
  whole = (broken / FILES['mosei']).read_bytes()
  for damage, message in (
    (drop('valid'), 'keys train, test; expected train, valid, test'),
    (drop('test', 'audio'), 'test has the keys vision, text, labels, id; exp'),
    (drop('test', 'id'), 'test has the keys vision, audio, text, labels; exp'),
    (drop('train', 'labels'), 'id, but not labels or regression_labels'),
    (
      lambda content: (
        content['train'].pop('labels'),
        content['train'].update({('a', 1): 2}),
      ),
      r"id, \('a', 1\), but not labels or regression_labels",
    ),
    (
      lambda content: content.update(valid=[1]),
      'valid is of the type list; expected a dictionary with the keys vision',
    ),
    (put('train', 'audio', lambda x: x[1:]), "'audio': 41"),
    (put('train', 'id', lambda x: x[:-1]), "'id': 41"),
    (put('train', 'labels', lambda x: np.repeat(x, 7, 2)), r'\(42, 1, 7\)'),
    (put('train', 'labels', lambda x: ['good'] * len(x)), 'could not convert'),
    (put('train', 'labels', lambda _: None), 'NoneType'),
    (put('test', 'vision', lambda x: x[..., :34]), r'\[34, 35\].*of vision'),
    (put('test', 'text', lambda x: x[..., 0]), 'test, text should hold seq'),
    (put('test', 'text', lambda x: x[:, :0]), 'expected one width'),
    (
      lambda content: content['test'].update(
        {key: values[:0] for key, values in content['test'].items()}
      ),
      'test should have one row',
    ),
  ):
    (broken / FILES['mosei']).write_bytes(whole)
    change(broken, damage)
    where = f'{broken / FILES["mosei"]}.*{message}'
    with pytest.raises(ValueError, match=where):
      opened(broken, tmp_path / 'data')


def test_the_readme_names_the_files_of_each_configuration():
  readme = (pathlib.Path(tree.__file__).parent / 'README.md').read_text()
  assert list(tree.SOURCES) == list(FILES)
  for name, source in tree.SOURCES.items():
    assert source.files[0] == FILES[name]
    files = ', '.join(f'`{file}`' for file in source.files)
    assert re.search(rf'\| `{name}`.*\| {files} \|', readme)
