"""CMU-MOSEI and CMU-MOSI: their pickles as stored, and broken ones."""

import pathlib
import pickle
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import sample_tree
from data_pipelines import sources
from data_pipelines.cmu_mosei import cmu_mosei_dataset_builder
from data_pipelines.cmu_mosei import tree
from data_pipelines.reading import _audit
from data_pipelines.reading import _feature_sequences

COUNTS = {'train': 42, 'validation': 14, 'test': 14}
PARTS = {'train': 'train', 'validation': 'valid', 'test': 'test'}
MODALITIES = ('vision', 'audio', 'text')
FILES = {
  'mosei': 'mosei_senti_data.pkl',
  'mosei_unaligned': 'mosei_senti_data_noalign.pkl',
  'mosi': 'mosi_data.pkl',
  'mosi_unaligned': 'mosi_data_noalign.pkl',
}


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
  root = tmp_path_factory.mktemp('sample') / 'cmu_mosei'
  sample_tree.write('cmu_mosei', root)
  return root


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory, sample):
  folder = tmp_path_factory.mktemp('data')
  for config in FILES:
    opened(sample, folder, config=config)
  return folder


@pytest.fixture
def broken(tmp_path):
  """A tree of its own, to break."""
  tree.write_sample(tmp_path / 'broken')
  return tmp_path / 'broken'


def opened(manual_dir, data_dir, split='train', config=None):
  return sources.open_source(
    'cmu_mosei',
    config=config,
    split=split,
    data_dir=data_dir,
    manual_dir=manual_dir,
  )


def raw(root, config='mosei'):
  return pickle.loads((root / FILES[config]).read_bytes())


def change(root, function, config='mosei'):
  content = raw(root, config)
  function(content)
  (root / FILES[config]).write_bytes(pickle.dumps(content))


def elements(source):
  return [source[row] for row in range(len(source))]


def clips(source):
  return [element['clip_id'].item().decode() for element in elements(source)]


@pytest.mark.parametrize('config', FILES)
@pytest.mark.parametrize('split', COUNTS)
def test_every_stored_value_is_that_of_the_pickle(
  sample, data_dir, config, split
):
  part = raw(sample, config)[PARTS[split]]
  stored = elements(opened(None, data_dir, split, config))
  assert len(stored) == len(part['id']) == COUNTS[split]
  for row, element in enumerate(stored):
    for name in MODALITIES:
      assert element[name].dtype == np.float32
      np.testing.assert_array_equal(element[name], part[name][row])
    assert element['score'] == part['labels'][row, 0, 0]
    assert element['score'].dtype == np.float32
    video, start, end = (
      each.decode() if isinstance(each, bytes) else each
      for each in part['id'][row].tolist()
    )
    assert element['clip_id'].item().decode() == f'{video}[{start}:{end}]'


def test_what_is_not_finite_is_stored_as_published(data_dir):
  audio = [each['audio'] for each in elements(opened(None, data_dir))]
  silent = [np.isneginf(each).any() for each in audio]
  assert np.flatnonzero(silent).tolist() == [0, 10, 20, 30, 40]


def test_shapes_are_those_of_the_configuration(data_dir):
  assert {
    config: {
      name: opened(None, data_dir, 'test', config)[0][name].shape
      for name in MODALITIES
    }
    for config in FILES
  } == {
    'mosei': {'vision': (6, 35), 'audio': (6, 74), 'text': (6, 300)},
    'mosei_unaligned': {
      'vision': (12, 35),
      'audio': (10, 74),
      'text': (6, 300),
    },
    'mosi': {'vision': (6, 20), 'audio': (6, 5), 'text': (6, 300)},
    'mosi_unaligned': {'vision': (12, 20), 'audio': (10, 5), 'text': (6, 300)},
  }


@pytest.mark.parametrize('config', FILES)
def test_no_video_is_in_two_splits(data_dir, config):
  videos = [
    {
      re.sub(r'(_\d+)?\[.*', '', clip)
      for clip in clips(opened(None, data_dir, split, config))
    }
    for split in COUNTS
  ]
  assert all(videos) and len(set.union(*videos)) == sum(map(len, videos))


@pytest.mark.parametrize('config', FILES)
@pytest.mark.parametrize('name', MODALITIES)
def test_the_sample_can_be_learned_from_each_modality(data_dir, config, name):
  """Nearest mean of the two signs, which is near 0.5 by chance."""

  def read(split):
    chosen = [
      element
      for element in elements(opened(None, data_dir, split, config))
      if element['score'] != 0
    ]
    x = [np.nan_to_num(each[name], neginf=0).mean(0) for each in chosen]
    return np.stack(x), np.array([each['score'] > 0 for each in chosen])

  (one, y), (other, z) = read('train'), read('test')
  means = np.stack([one[~y].mean(0), one[y].mean(0)])
  distance = np.square(other[:, None] - means).sum(-1)
  assert np.mean(distance.argmin(1) == z) > 0.9


def test_the_published_sizes_are_expected(sample, tmp_path, caplog):
  opened(sample, tmp_path, config='mosi')
  for split, count in {'train': 1284, 'validation': 229, 'test': 686}.items():
    assert (
      f"'{split}' has {COUNTS[split]} items; the published one has {count}"
      in caplog.text
    )
  sizes = {name: source.expected for name, source in tree.SOURCES.items()}
  assert sizes['mosei'] == sizes['mosei_unaligned']
  assert sum(sizes['mosei'].values()) == 22_856


def test_what_cannot_be_read_is_counted_by_reason(broken, tmp_path, caplog):
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

  names = clips(opened(broken, tmp_path / 'intact'))
  change(broken, edit)
  source = opened(broken, tmp_path / 'data')
  assert clips(source) == [names[3], *names[10:]]
  builder = cmu_mosei_dataset_builder.Builder(
    data_dir=tmp_path / 'data', file_format='array_record'
  )
  rows = _audit.table(builder.data_path, 'train')
  assert [(row['key'], row['reason']) for row in rows] == [
    (names[row], reason)
    for row, reason in (
      (0, 'label_out_of_range'),
      (1, 'label_out_of_range'),
      (2, 'label_out_of_range'),
      (4, 'empty_text'),
      (5, 'empty_text'),
      (6, 'lengths_differ'),
      (7, 'corrupt'),
      (8, 'too_short'),
      (9, 'corrupt'),
    )
  ]
  assert '2 empty_text, 3 label_out_of_range' in caplog.text


def test_unaligned_sequences_may_differ_in_length_and_none_is_cut(tmp_path):
  tree.write_sample(tmp_path / 'tree')

  def edit(content):
    part = content['train']
    part['audio'] = [
      values[-1 - row :] for row, values in enumerate(part['audio'])
    ]

  change(tmp_path / 'tree', edit, 'mosi_unaligned')
  stored = elements(
    opened(tmp_path / 'tree', tmp_path / 'data', config='mosi_unaligned')
  )
  assert [len(each['audio']) for each in stored[:4]] == [1, 2, 3, 4]
  assert len(stored) == COUNTS['train']


def test_no_clip_of_an_unaligned_file_passes_for_aligned(broken, tmp_path):
  (broken / FILES['mosei_unaligned']).rename(broken / FILES['mosei'])
  with pytest.raises(ValueError, match=r"no item.*'audio': 10, 'text': 6"):
    opened(broken, tmp_path / 'data')


@pytest.mark.parametrize(
  ('config', 'file'),
  [('mosei', 'mosei_raw.pkl'), ('mosi', 'mosi_raw.pkl')],
)
def test_multibench_files_are_another_name(broken, config, file):
  """Their ids have one part, video[3], and their arrays double precision."""
  part = raw(broken, config)
  for split, content in part.items():
    content['id'] = [f'{split}[{row}]' for row in range(len(content['id']))]
    content['vision'] = content['vision'].astype(np.float64)
  (broken / file).write_bytes(pickle.dumps(part))
  (broken / FILES[config]).unlink()
  read = _feature_sequences.read_packed(broken / file, tree.LABELS)
  assert list(read['validation'].clips)[:2] == ['valid[0]', 'valid[1]']
  assert read['validation'].videos == {'valid'}
  stored = _feature_sequences.packed_element(read['test'], 3, True, 'test[3]')
  np.testing.assert_array_equal(
    stored['vision'], np.float32(part['test']['vision'][3])
  )
  assert file in tree.SOURCES[config].files


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
  stored = elements(opened(tmp_path / 'mmsa', tmp_path, 'validation', 'mosi'))
  np.testing.assert_array_equal(
    [each['score'] for each in stored], np.linspace(-3, 3, 14, dtype=np.float32)
  )
  assert stored[0]['text'].shape == (6, 768)
  assert stored[5]['clip_id'].item() == b'valid$_$5'
  # MOSEI's file has the same name in another folder.
  with pytest.raises(
    FileNotFoundError, match=r'MOSEI/Processed/aligned_50\.pkl'
  ):
    opened(tmp_path / 'mmsa', tmp_path / 'data', config='mosei')


def test_a_clip_that_returns_is_kept_under_another_name(broken):
  def edit(content):
    content['test']['id'][[4, 9]] = content['test']['id'][2]

  change(broken, edit)
  path = broken / FILES['mosei']
  names = list(_feature_sequences.read_packed(path)['test'].clips)
  assert len(names) == COUNTS['test']
  assert [names[4], names[9]] == [f'{names[2]}#2', f'{names[2]}#3']


@pytest.mark.parametrize('config', ['mosei', 'mosi'])
def test_a_video_in_two_splits_is_told(broken, config, caplog):
  path = broken / FILES[config]
  _feature_sequences.read_packed(path)
  assert not caplog.text

  def edit(content):
    # Of MOSI's ids, only the number after the video differs.
    content['valid']['id'][3, 0] = content['train']['id'][7, 0]
    content['test']['id'][1, 0] = content['train']['id'][8, 0]

  change(broken, edit, config)
  _feature_sequences.read_packed(path)
  assert '1 videos are in more than one split' in caplog.text
  assert 'video000001' in caplog.text


def test_arrays_are_not_copied(sample):
  """MOSEI's unaligned arrays take gigabytes."""
  read = _feature_sequences.read_packed(sample / FILES['mosei_unaligned'])
  part = read['train']
  stored = _feature_sequences.packed_element(part, 5, False, 'clip')
  for name in MODALITIES:
    assert np.shares_memory(stored[name], part.sequences[name])


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


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (drop('valid'), 'keys train, test; expected train, valid, test'),
    (drop('test', 'audio'), 'test has the keys vision, text, labels, id; exp'),
    (drop('test', 'id'), 'test has the keys vision, audio, text, labels; exp'),
    (drop('train', 'labels'), 'none is labels or regression_labels'),
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
  ],
)
def test_other_layouts_are_refused(broken, tmp_path, damage, message):
  change(broken, damage)
  with pytest.raises(ValueError, match=message) as caught:
    opened(broken, tmp_path / 'data')
  assert str(broken / FILES['mosei']) in str(caught.value)


def truncate(path):
  path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (
      lambda path: path.write_text('version https://git-lfs.github.com/'),
      'pointer of Git LFS',
    ),
    (truncate, 'truncated'),
    (lambda path: path.write_bytes(b''), 'empty'),
    (
      lambda path: path.write_bytes(pickle.dumps(np.zeros(3))),
      'ndarray; expected a dictionary with the keys train, valid, test',
    ),
    (lambda path: path.write_bytes(pickle.dumps(pathlib.Path())), 'run code'),
  ],
)
def test_damaged_files_are_named(broken, tmp_path, damage, message):
  path = broken / FILES['mosi']
  intact = path.read_bytes()
  damage(path)
  with pytest.raises(ValueError, match=message) as caught:
    opened(broken, tmp_path / 'data', config='mosi')
  assert str(path) in str(caught.value)
  # Repaired, the same command works: nothing half made is in the way.
  path.write_bytes(intact)
  assert len(opened(broken, tmp_path / 'data', config='mosi')) == 42


@pytest.mark.parametrize('missing', ['absent', 'empty'])
def test_a_wrong_folder_shows_the_tree_that_is_expected(tmp_path, missing):
  folder = tmp_path / missing
  if missing == 'empty':
    folder.mkdir()
  with pytest.raises(FileNotFoundError) as caught:
    opened(folder, tmp_path / 'data')
  for part in (str(folder), *FILES.values()):
    assert part in str(caught.value)


def test_the_file_of_another_configuration_is_no_substitute(broken, tmp_path):
  (broken / FILES['mosi']).unlink()
  with pytest.raises(FileNotFoundError) as caught:
    opened(broken, tmp_path / 'data', config='mosi')
  expected, found = str(caught.value).split('Found:')
  assert 'has no mosi_data.pkl or mosi_raw.pkl' in expected
  assert 'mosei_senti_data.pkl, mosei_senti_data_noalign.pkl' in found


def test_the_builder_tells_citations_and_valid_tags(tmp_path):
  builder = cmu_mosei_dataset_builder.Builder(data_dir=tmp_path)
  for key in ('zadeh2018mosei', 'zadeh2016mosi', 'tsai2019mult'):
    assert key in builder.info.citation
  assert builder.builder_config.name == 'mosei'
  tags = builder.get_metadata().tags
  assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())


def test_configurations_and_readme_are_of_the_same_files():
  configs = cmu_mosei_dataset_builder.Builder.builder_configs
  assert list(configs) == list(tree.SOURCES) == list(FILES)
  readme = (pathlib.Path(tree.__file__).parent / 'README.md').read_text()
  for name, source in tree.SOURCES.items():
    assert source.files[0] == FILES[name]
    files = ', '.join(f'`{file}`' for file in source.files)
    assert re.search(rf'\| `{name}`.*\| {files} \|', readme)
    for count in source.expected.values():
      assert f'{count:,}' in readme
  reasons = re.findall(r'`(\w+)`', readme.split('Counted by reason')[1])
  assert sorted(reasons) == [
    'corrupt',
    'empty_text',
    'label_out_of_range',
    'lengths_differ',
    'too_short',
  ]
