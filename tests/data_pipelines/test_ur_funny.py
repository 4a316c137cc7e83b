"""UR-FUNNY: its pickles as they are stored, and broken ones."""

import functools
import os
import pickle

import numpy as np
import pytest

from data_pipelines.ur_funny import tree
from tests import clips

COUNTS = {'train': 42, 'validation': 12, 'test': 12}
FOLDS = {'train': 'train', 'validation': 'dev', 'test': 'test'}
MODALITIES = ('vision', 'audio', 'text')
SDK = (
  'data_folds',
  'humor_label_sdk',
  'language_sdk',
  'word_embedding_list',
  'openface_features_sdk',
  'covarep_features_sdk',
)

NAME = 'ur_funny'

opened = functools.partial(clips.opened, NAME)


def raw(root, name):
  return pickle.loads((root / f'{name}.pkl').read_bytes())


def change(root, name, function):
  content = raw(root, name)
  function(content)
  (root / f'{name}.pkl').write_bytes(pickle.dumps(content))


def test_stored_values_are_those_of_the_authors_pickles(sample, stored):
  files = {name: raw(sample, name) for name in SDK}
  vectors = files['word_embedding_list']
  for split in COUNTS:
    elements = stored('ur_funny', split)
    keys = files['data_folds'][FOLDS[split]]
    assert clips.ids(elements) == [str(key) for key in keys]
    for element, key in zip(elements, keys, strict=True):
      words = files['language_sdk'][key]['punchline_embedding_indexes']
      expected = {
        'vision': files['openface_features_sdk'][key]['punchline_features'],
        'audio': files['covarep_features_sdk'][key]['punchline_features'],
        'text': [vectors[word] for word in words],
      }
      for name, values in expected.items():
        assert element[name].dtype == np.float32
        np.testing.assert_array_equal(element[name], np.stack(values))
      assert element['label'] == files['humor_label_sdk'][key]


def test_stored_values_are_those_of_the_packed_file(sample, stored):
  """Both configurations of the sample have the same punchlines."""
  content = raw(sample, 'humor')
  for split in COUNTS:
    elements = stored('ur_funny', split, 'multibench')
    part = content['valid' if split == 'validation' else split]
    assert clips.ids(elements) == [str(key) for key in part['id']]
    for row, element in enumerate(elements):
      assert element['label'] == part['labels'][row, 0]
      for name in MODALITIES:
        np.testing.assert_array_equal(element[name], part[name][row])
        steps = stored('ur_funny', split)[row][name]
        np.testing.assert_array_equal(element[name][-len(steps) :], steps)
        assert not element[name][: -len(steps)].any() or len(steps) == 5


def test_unreadable_items_are_counted_by_reason(broken, tmp_path, caplog):
  # Items of the training part, whose ids are 1 to 42.
  change(
    broken,
    'humor_label_sdk',
    lambda labels: labels.update(
      {1: 2, 2: np.nan, 3: 'funny', 4: [0, 1], 17: [[0], [1, 2]]}
    ),
  )
  change(broken, 'covarep_features_sdk', lambda items: items.pop(5))

  def edit_words(items):
    del items[6]
    items[7]['punchline_embedding_indexes'] = [0, 0, 0]
    items[8]['punchline_embedding_indexes'] = []
    items[9]['punchline_embedding_indexes'].append(21)
    items[10]['punchline_embedding_indexes'][0] = 41
    items[11]['punchline_embedding_indexes'][0] = -1
    items[12]['punchline_embedding_indexes'][0] = 1.5
    items[16]['punchline_embedding_indexes'] = [[1], [2, 3]]

  change(broken, 'language_sdk', edit_words)

  def edit_faces(items):
    items[13]['punchline_features'][1] = np.zeros(370)
    items[14]['punchline_features'] = []
    del items[15]['punchline_features']

  change(broken, 'openface_features_sdk', edit_faces)
  elements = opened(broken, tmp_path / 'data')
  assert clips.ids(elements) == [str(key) for key in range(18, 43)]
  prepared = tmp_path / 'data' / NAME / 'sdk' / '1.0.0'
  rows = clips.table(prepared, 'train')
  assert {int(row['key']): row['reason'] for row in rows} == {
    **dict.fromkeys((1, 2, 3, 4), 'label_out_of_range'),
    **dict.fromkeys((5, 6, 15), 'missing'),
    **dict.fromkeys((7, 8), 'empty_text'),
    9: 'lengths_differ',
    **dict.fromkeys((10, 11, 12, 13, 16, 17), 'corrupt'),
    14: 'too_short',
  }
  details = {int(row['key']): row['detail'] for row in rows}
  assert 'no audio' in details[5] and 'no words' in details[6]
  assert 'list of vectors has 41' in details[10]
  assert '25 items; the published one has 42' in caplog.text
  assert clips.table(prepared, 'test') == []


def test_errors_name_damaged_files(broken, tmp_path):
  for name, content, message in (
    *((name, None, 'truncated') for name in ('humor', *SDK)),
    ('word_embedding_list', [1.5], r'shape \(1,\); exp'),
    ('humor', [1.5], 'list; expected a dictionary'),
    ('humor_label_sdk', [1.5], 'list; expected a dictionary'),
    ('covarep_features_sdk', os.getcwd, 'may run code'),
  ):
    path = broken / f'{name}.pkl'
    whole = path.read_bytes()
    path.write_bytes(pickle.dumps(content) if content else whole[:-9])
    config = 'multibench' if name == 'humor' else 'sdk'
    read = functools.partial(opened, broken, tmp_path / 'data', config=config)
    with pytest.raises(ValueError, match=f'{path}.*{message}'):
      read()
    path.write_bytes(whole)
  # After a repair the same commands work: no partial files are left behind.
  for config in ('sdk', 'multibench'):
    elements = opened(broken, tmp_path / 'data', config=config)
    assert len(elements) == COUNTS['train']


def test_wrong_folds_are_refused(broken):
  for folds, message in (
    ({'train': [1], 'test': [2]}, 'train, test; expected train, dev, test'),
    ({'train': 1, 'dev': [2], 'test': [3]}, 'train is of the type int'),
    ({'train': [[1]], 'dev': [2], 'test': [3]}, 'train lists list; expected'),
    ({'train': [1], 'dev': [2], 'test': [3, 1]}, '1 more than once.*in test'),
    ({'train': [1, 1], 'dev': [2], 'test': [3]}, '1 more than once.*in train'),
  ):
    (broken / 'data_folds.pkl').write_bytes(pickle.dumps(folds))
    with pytest.raises(ValueError, match=message):
      tree.splits(broken)


def test_features_that_differ_in_width_are_refused(broken):
  def edit(items):
    items[4]['punchline_features'] = [np.zeros(75)]

  change(broken, 'openface_features_sdk', edit)
  message = r'openface_features_sdk.pkl.*\[75, 371\]'
  with pytest.raises(ValueError, match=message):
    tree.read_sdk(broken)


def test_a_warning_counts_items_in_no_fold(broken, tmp_path, caplog):
  change(broken, 'data_folds', lambda folds: folds['test'].remove(60))
  opened(broken, tmp_path / 'data')
  assert '1 labelled items are in no split' in caplog.text


def test_the_files_of_version_1_are_read(broken):
  """They have another name, another width, and lists instead of arrays."""
  (broken / 'language_sdk.pkl').rename(
    broken / 'word_embedding_indexes_sdk.pkl'
  )

  def narrow(items):
    for item in items.values():
      item['punchline_features'] = [
        row[:75].tolist() for row in item['punchline_features']
      ]

  change(broken, 'openface_features_sdk', narrow)
  sdk = tree.read_sdk(broken)
  assert sdk.widths == {'vision': 75, 'audio': 81, 'text': 300}
  item = tree.item(sdk, '7', 7)
  features = raw(broken, 'openface_features_sdk')[7]['punchline_features']
  np.testing.assert_array_equal(item['vision'], np.float32(features))
