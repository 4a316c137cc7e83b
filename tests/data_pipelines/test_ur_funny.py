"""UR-FUNNY: its pickles as they are stored, and pickles that are broken."""

import collections
import os
import pathlib
import pickle
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import sample_tree
from data_pipelines import sources
from data_pipelines.reading import _audit
from data_pipelines.reading import _pickles
from data_pipelines.ur_funny import tree
from data_pipelines.ur_funny import ur_funny_dataset_builder

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


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
  root = tmp_path_factory.mktemp('sample') / 'ur_funny'
  sample_tree.write('ur_funny', root)
  return root


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory, sample):
  folder = tmp_path_factory.mktemp('data')
  for config in ('sdk', 'multibench'):
    opened(sample, folder, config=config)
  return folder


@pytest.fixture
def broken(tmp_path):
  """A tree of its own, to break."""
  tree.write_sample(tmp_path / 'broken')
  return tmp_path / 'broken'


def opened(manual_dir, data_dir, split='train', config=None):
  return sources.open_source(
    'ur_funny',
    config=config,
    split=split,
    data_dir=data_dir,
    manual_dir=manual_dir,
  )


def raw(root, name):
  return pickle.loads((root / f'{name}.pkl').read_bytes())


def change(root, name, function):
  content = raw(root, name)
  function(content)
  (root / f'{name}.pkl').write_bytes(pickle.dumps(content))


def clips(source):
  return [source[row]['clip_id'].item().decode() for row in range(len(source))]


@pytest.mark.parametrize('split', COUNTS)
def test_every_stored_value_is_that_of_the_authors_pickles(
  sample, data_dir, split
):
  source = opened(None, data_dir, split)
  keys = raw(sample, 'data_folds')[FOLDS[split]]
  assert clips(source) == [str(key) for key in keys]
  assert len(keys) == COUNTS[split]
  vectors = raw(sample, 'word_embedding_list')
  files = {name: raw(sample, name) for name in SDK}
  for row, key in enumerate(keys):
    element = source[row]
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


@pytest.mark.parametrize('split', COUNTS)
def test_every_stored_value_is_that_of_the_packed_file(sample, data_dir, split):
  source = opened(None, data_dir, split, 'multibench')
  part = raw(sample, 'humor')['valid' if split == 'validation' else split]
  assert len(source) == COUNTS[split]
  for row in range(len(source)):
    for name in MODALITIES:
      np.testing.assert_array_equal(source[row][name], part[name][row])
    assert source[row]['label'] == part['labels'][row, 0]
  assert clips(source) == [str(key) for key in part['id']]


def test_both_configurations_of_the_sample_tell_of_the_same_punchlines(
  data_dir,
):
  one, other = (
    opened(None, data_dir, 'test', c) for c in ('sdk', 'multibench')
  )
  for row in range(len(one)):
    for name in MODALITIES:
      steps = one[row][name]
      np.testing.assert_array_equal(other[row][name][-len(steps) :], steps)
      assert not other[row][name][: -len(steps)].any() or len(steps) == 5


def test_no_item_is_in_two_splits(data_dir):
  names = [
    name for split in COUNTS for name in clips(opened(None, data_dir, split))
  ]
  assert len(names) == len(set(names)) == sum(COUNTS.values())


@pytest.mark.parametrize('name', MODALITIES)
def test_the_sample_can_be_learned_from_each_modality(data_dir, name):
  """Nearest class mean of the steps' mean, which is near 0.5 by chance."""
  (one, y), (other, z) = (
    (
      np.stack([each[name].mean(0) for each in elements]),
      np.array([each['label'] for each in elements]),
    )
    for elements in (
      [source[row] for row in range(len(source))]
      for source in (
        opened(None, data_dir, split) for split in ('train', 'test')
      )
    )
  )
  means = np.stack([one[y == label].mean(0) for label in (0, 1)])
  distance = np.square(other[:, None] - means).sum(-1)
  assert np.mean(distance.argmin(1) == z) > 0.9


def test_class_numbers_do_not_depend_on_what_is_there(broken, tmp_path):
  change(
    broken,
    'humor_label_sdk',
    lambda labels: labels.update(dict.fromkeys(labels, 1)),
  )
  source = opened(broken, tmp_path / 'data', 'test')
  assert {int(source[row]['label']) for row in range(len(source))} == {1}
  assert tree.CLASSES[1] == 'humorous'


def test_what_cannot_be_read_is_counted_by_reason(broken, tmp_path, caplog):
  # Of the training part, whose ids are 1 to 42.
  change(
    broken,
    'humor_label_sdk',
    lambda labels: labels.update({1: 2, 2: np.nan, 3: 'funny', 4: [0, 1]}),
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

  change(broken, 'language_sdk', edit_words)

  def edit_faces(items):
    items[13]['punchline_features'][1] = np.zeros(370)
    items[14]['punchline_features'] = []
    del items[15]['punchline_features']

  change(broken, 'openface_features_sdk', edit_faces)
  source = opened(broken, tmp_path / 'data')
  assert clips(source) == [str(key) for key in range(16, 43)]
  builder = ur_funny_dataset_builder.Builder(
    data_dir=tmp_path / 'data', file_format='array_record'
  )
  rows = _audit.table(builder.data_path, 'train')
  assert {int(row['key']): row['reason'] for row in rows} == {
    **dict.fromkeys((1, 2, 3, 4), 'label_out_of_range'),
    **dict.fromkeys((5, 6, 15), 'missing'),
    **dict.fromkeys((7, 8), 'empty_text'),
    9: 'lengths_differ',
    **dict.fromkeys((10, 11, 12, 13), 'corrupt'),
    14: 'too_short',
  }
  details = {int(row['key']): row['detail'] for row in rows}
  assert 'no audio' in details[5] and 'no words' in details[6]
  assert 'list of vectors has 41' in details[10]
  assert '27 items; the published one has 42' in caplog.text
  assert _audit.table(builder.data_path, 'test') == []


def write_pointer(path):
  path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:1\n')


def truncate(path):
  path.write_bytes(path.read_bytes()[:-9])


def write_nothing(path):
  path.write_bytes(b'')


def write_words(path):
  path.write_text('hello')


def write_list(path):
  path.write_bytes(pickle.dumps([1.5]))


def write_code(path):
  path.write_bytes(pickle.dumps(os.getcwd))


DAMAGES = {
  write_pointer: 'pointer of Git LFS',
  truncate: 'truncated',
  write_nothing: 'empty',
  write_words: 'no pickle',
  write_list: 'list; expected a dictionary',
  write_code: 'may run code',
}


@pytest.mark.parametrize(
  ('name', 'damage'),
  [
    *((name, truncate) for name in SDK),
    ('word_embedding_list', write_list),
    *((name, damage) for name in ('humor', SDK[-1]) for damage in DAMAGES),
  ],
)
def test_damaged_files_are_named(broken, tmp_path, name, damage):
  path = broken / f'{name}.pkl'
  intact = path.read_bytes()
  damage(path)
  message = DAMAGES[damage]
  if (name, damage) == ('word_embedding_list', write_list):
    message = r'shape \(1,\); expected \(words, 300\)'
  config = 'multibench' if name == 'humor' else 'sdk'
  with pytest.raises(ValueError, match=message) as caught:
    opened(broken, tmp_path / 'data', config=config)
  assert str(path) in str(caught.value)
  # Repaired, the same command works: nothing half made is in the way.
  path.write_bytes(intact)
  source = opened(broken, tmp_path / 'data', config=config)
  assert len(source) == COUNTS['train']


@pytest.mark.parametrize('missing', ['absent', 'empty'])
def test_a_wrong_folder_shows_the_tree_that_is_expected(tmp_path, missing):
  folder = tmp_path / missing
  if missing == 'empty':
    folder.mkdir()
  with pytest.raises(FileNotFoundError) as caught:
    opened(folder, tmp_path / 'data')
  for part in (str(folder), 'language_sdk.pkl', 'humor.pkl'):
    assert part in str(caught.value)


def test_after_a_missing_file_is_there_the_same_command_works(broken, tmp_path):
  moved = (broken / 'language_sdk.pkl').rename(tmp_path / 'elsewhere')
  with pytest.raises(FileNotFoundError) as caught:
    opened(broken, tmp_path / 'data')
  expected, found = str(caught.value).split('Found:')
  assert 'no language_sdk.pkl or word_embedding_indexes_sdk.pkl' in expected
  assert 'covarep_features_sdk.pkl, data_folds.pkl, humor.pkl' in found
  moved.rename(broken / 'language_sdk.pkl')
  assert len(opened(broken, tmp_path / 'data')) == COUNTS['train']


@pytest.mark.parametrize(
  ('folds', 'message'),
  [
    (
      {'train': [1], 'test': [2]},
      'keys train, test; expected train, dev, test',
    ),
    ({'train': 1, 'dev': [2], 'test': [3]}, 'train is of the type int'),
    ({'train': [1], 'dev': [2], 'test': [3, 1]}, '1 more than once.*in test'),
    ({'train': [1, 1], 'dev': [2], 'test': [3]}, '1 more than once.*in train'),
  ],
)
def test_wrong_folds_are_refused(broken, folds, message):
  (broken / 'data_folds.pkl').write_bytes(pickle.dumps(folds))
  with pytest.raises(ValueError, match=message):
    tree.splits(broken)


def test_features_of_two_widths_are_refused(broken):
  def edit(items):
    items[4]['punchline_features'] = [np.zeros(75)]

  change(broken, 'openface_features_sdk', edit)
  with pytest.raises(ValueError, match=re.escape('[75, 371]')) as caught:
    tree.read_sdk(broken)
  assert 'openface_features_sdk.pkl' in str(caught.value)


def test_items_in_no_fold_are_told(broken, tmp_path, caplog):
  change(broken, 'data_folds', lambda folds: folds['test'].remove(60))
  opened(broken, tmp_path / 'data')
  assert '1 items that have labels are in no split' in caplog.text


def test_the_files_of_version_1_are_read(broken):
  """Another name, another width, and lists in place of arrays."""
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


def test_a_hostile_pickle_is_not_run(tmp_path):
  class Hostile:
    def __reduce__(self):
      return pathlib.Path.touch, (tmp_path / 'ran',)

  path = tmp_path / 'a.pkl'
  path.write_bytes(pickle.dumps({'train': [Hostile()]}))
  with pytest.raises(ValueError, match=r'asks for.*run code') as caught:
    _pickles.load(path)
  assert str(path) in str(caught.value)
  assert not (tmp_path / 'ran').exists()
  # The same file does run elsewhere.
  pickle.loads(path.read_bytes())
  assert (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  'code',
  [
    b"cos\nsystem\n(S'true'\ntR.",
    b"cbuiltins\neval\n(S'1'\ntR.",
    b"cnumpy\nload\n(S'/dev/null'\ntR.",
    b'cnumpy.core.multiarray\n_reconstruct.__globals__\n.',
    b'\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.',
  ],
)
def test_only_what_rebuilds_data_is_called(tmp_path, code):
  (tmp_path / 'a.pkl').write_bytes(code)
  with pytest.raises(ValueError, match='may run code'):
    _pickles.load(tmp_path / 'a.pkl')


@pytest.mark.parametrize('package', ['core', '_core'])
@pytest.mark.parametrize('protocol', [0, 2, 3, 4, 5])
def test_pickles_of_either_numpy_and_all_protocols_are_read(
  tmp_path, protocol, package
):
  content = {
    'float': np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
    'double': np.array([[-np.inf, 2.0], [np.nan, 4.0]]).T,
    'text': np.array(['a', 'bcd']),
    'bytes': np.array([b'a_1', b'bcd']),
    'object': np.array(['a', 2, b'\xff', None], object),
    'scalars': [np.float64(1.5), np.int64(-7), 3 + 4j, {1, 2}, (b'', b'\x80')],
  }
  written = pickle.dumps(content, protocol)
  if protocol < 4:  # later ones say the length of the name
    written = re.sub(rb'numpy\._?core', f'numpy.{package}'.encode(), written)
  (tmp_path / 'a.pkl').write_bytes(written)
  read = _pickles.load(tmp_path / 'a.pkl')
  np.testing.assert_equal(read, content)
  assert {k: read[k].dtype for k in ('float', 'double', 'text', 'bytes')} == {
    k: content[k].dtype for k in ('float', 'double', 'text', 'bytes')
  }


def test_arrays_and_text_of_python_2_are_read(tmp_path):
  # As Python 2 writes array([1.0, -2.5], 'f4') and a string with an accent.
  written = (
    b"(dS'x'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt"
    b"S'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\n"
    b"I-1\nI0\ntbI00\nS'\\x00\\x00\\x80?\\x00\\x00 \\xc0'\ntbsS'y'\n"
    b"S'caf\\xe9'\ns."
  )
  (tmp_path / 'a.pkl').write_bytes(written)
  read = _pickles.load(tmp_path / 'a.pkl')
  np.testing.assert_array_equal(read['x'], np.float32([1, -2.5]))
  assert read['y'] == 'café'


def test_the_builder_tells_citation_and_valid_tags(tmp_path):
  builder = ur_funny_dataset_builder.Builder(data_dir=tmp_path)
  assert 'hasan2019urfunny' in builder.info.citation
  assert builder.builder_config.name == 'sdk'
  tags = builder.get_metadata().tags
  assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())


def test_the_readme_names_every_file_and_reason():
  readme = (pathlib.Path(tree.__file__).parent / 'README.md').read_text()
  for name in [*SDK, 'word_embedding_indexes_sdk', 'humor']:
    assert f'{name}.pkl' in readme and f'{name}.pkl' in tree.TREE
  reasons = re.findall(r'`(\w+)`', readme.split('Counted by reason')[1])
  assert collections.Counter(reasons) == dict.fromkeys(
    (
      'missing',
      'empty_text',
      'lengths_differ',
      'too_short',
      'corrupt',
      'label_out_of_range',
    ),
    1,
  )
