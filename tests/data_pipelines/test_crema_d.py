"""CREMA-D: from the published tree to the records, and broken trees."""

import csv
import io
import re
import shutil
import wave

import av
import numpy as np
import PIL.Image
import pytest
import soundfile
import tensorflow_datasets as tfds

from data_pipelines import sample_tree
from data_pipelines import sources
from data_pipelines.crema_d import crema_d_dataset_builder
from data_pipelines.crema_d import tree
from data_pipelines.reading import _audit
from data_pipelines.reading import _media

SPLITS = ('train', 'validation', 'test')
# Of the sample, by the hash of their numbers.
ACTORS = {'validation': {'1027'}, 'test': {'1020', '1022'}}
CLIP = '1021_DFA_ANG_XX'


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
  root = tmp_path_factory.mktemp('sample') / 'crema_d'
  sample_tree.write('crema_d', root)
  return root


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory, sample):
  folder = tmp_path_factory.mktemp('data')
  for config in ('field', 'actor_disjoint'):
    opened(sample, folder, config=config)
  return folder


@pytest.fixture(scope='module')
def stored(data_dir):
  """Split -> elements by clip, of the default configuration."""
  return {split: elements(opened(None, data_dir, split)) for split in SPLITS}


@pytest.fixture
def small(sample, tmp_path):
  """Seven clips of three actors, one for each split; without lists."""
  root = tmp_path / 'small'
  for actor in ('1020', '1021', '1027'):
    copy(sample, root, f'{actor}_DFA_*')
  for name in ('1020_DFA_*', '1027_DFA_*'):
    for path in root.glob(f'*/{name}'):
      if 'SAD' not in path.name:
        path.unlink()
  for path in root.glob('*/1021_DFA_NEU_*'):
    path.unlink()
  return root


def copy(sample, root, pattern):
  for path in sample.glob(f'*/{pattern}'):
    (root / path.parent.name).mkdir(parents=True, exist_ok=True)
    shutil.copy(path, root / path.parent.name)


def opened(manual_dir, data_dir, split='train', config=None):
  return sources.open_source(
    'crema_d',
    config=config,
    split=split,
    data_dir=data_dir,
    manual_dir=manual_dir,
  )


def text(element, name):
  return element[name].item().decode()


def elements(source):
  listed = [source[index] for index in range(len(source))]
  named = {text(element, 'clip_id'): element for element in listed}
  assert len(named) == len(listed)
  return named


def write_list(root, part, rows, start=''):
  root.mkdir(parents=True, exist_ok=True)
  lines = ''.join(f'{row}\r\n' for row in rows)
  (root / f'{part}.csv').write_bytes((start + lines).encode())


def listed(root, part):
  with (root / f'{part}.csv').open(newline='') as file:
    return {name: emotion for name, emotion in csv.reader(file)}


# What is stored.


def test_every_sound_is_that_of_the_tree(sample, stored):
  for clips in stored.values():
    for name, element in clips.items():
      with wave.open(str(sample / 'AudioWAV' / f'{name}.wav')) as file:
        frames = file.readframes(file.getnframes())
      np.testing.assert_array_equal(
        element['audio'], np.frombuffer(frames, '<i2')
      )
      assert element['audio'].dtype == np.int16


def test_the_frames_are_the_first_of_every_second(sample, stored):
  """The sample has ten frames a second, each with noise of its own."""
  for name in sorted(stored['test'])[::10]:
    with av.open(str(sample / 'VideoFlash' / f'{name}.flv')) as container:
      frames = [each.to_ndarray(format='rgb24') for each in container.decode()]
    actual = [
      np.asarray(PIL.Image.open(io.BytesIO(data)), float)
      for data in stored['test'][name]['frames']
    ]
    assert len(actual) == len(range(0, len(frames), 10)) >= 2
    for number, picture in enumerate(actual):
      errors = [np.abs(picture - frame).mean() for frame in frames]
      assert np.argmin(errors) == 10 * number


def test_texts_and_labels_are_those_of_the_name(stored):
  for clips in stored.values():
    for name, element in clips.items():
      parts = [
        text(element, part)
        for part in ('actor', 'sentence', 'emotion', 'level')
      ]
      assert '_'.join(parts) == name
      assert element['label'] == tree.EMOTIONS.index(name.split('_')[2])
      assert element['label'].dtype == np.int64


def test_numbers_of_the_classes_are_the_fields():
  names = crema_d_dataset_builder.Builder().info.features['label'].names
  assert names == ['NEU', 'HAP', 'SAD', 'FEA', 'DIS', 'ANG']


def test_numbers_of_the_classes_do_not_depend_on_the_folder(small, tmp_path):
  """In the small tree, two of the splits have the class SAD alone."""
  opened(small, tmp_path / 'data')
  for split, clip in (('validation', '1027'), ('test', '1020')):
    found = elements(opened(None, tmp_path / 'data', split))
    assert list(found) == [f'{clip}_DFA_SAD_XX']
    assert found[f'{clip}_DFA_SAD_XX']['label'] == 2


def test_the_default_follows_the_fields_lists(sample, stored):
  train, test = (listed(sample, part) for part in ('train', 'test'))
  assert stored['test'].keys() == test.keys()
  both = {**stored['train'], **stored['validation']}
  assert both.keys() == train.keys()
  assert len(both) == len(stored['train']) + len(stored['validation'])
  # Clips lie in the order of their names.
  assert list(stored['train']) == sorted(stored['train'])
  assert list(stored['test']) == sorted(stored['test'])


def actors(clips):
  return {name.split('_')[0] for name in clips}


def test_validation_has_actors_of_its_own(stored):
  assert actors(stored['validation']) == ACTORS['validation']
  assert not actors(stored['train']) & actors(stored['validation'])
  # In the field's lists, every actor is tested.
  assert len(actors(stored['test'])) == 10


def test_no_actor_is_in_two_splits_of_the_other_configuration(data_dir, sample):
  found = {
    split: elements(opened(None, data_dir, split, 'actor_disjoint'))
    for split in SPLITS
  }
  for split, expected in ACTORS.items():
    assert actors(found[split]) == expected
  assert len(actors(found['train'])) == 7
  together = [name for clips in found.values() for name in clips]
  files = [path.stem for path in (sample / 'AudioWAV').iterdir()]
  assert sorted(together) == sorted(files)


def test_the_sample_can_be_learned_from_either_modality(stored):
  """Nearest mean of the training clips, which is far from 1/6 by chance."""

  def sound(element):
    return np.abs(np.fft.rfft(element['audio'][:16_000] / 2**15))

  def picture(element):
    image = PIL.Image.open(io.BytesIO(element['frames'][0]))
    return np.asarray(image, float).mean(axis=(0, 1))

  for feature in (sound, picture):
    one, other = (
      (
        np.stack([feature(each) for each in stored[split].values()]),
        np.array([each['label'] for each in stored[split].values()]),
      )
      for split in ('train', 'test')
    )
    means = np.stack([one[0][one[1] == i].mean(0) for i in range(6)])
    distance = np.square(other[0][:, None] - means).sum(-1)
    assert np.mean(distance.argmin(1) == other[1]) > 0.9


def test_preparing_says_how_many_clips_are_expected(sample, tmp_path, caplog):
  rows = [f'{name},{name[9:12]}' for name in ('1020_DFA_SAD_XX', CLIP)]
  write_list(tmp_path / 'few', 'train', [*rows, '1027_DFA_SAD_XX,SAD'])
  write_list(tmp_path / 'few', 'test', ['1022_DFA_SAD_XX,SAD'])
  for name in ('1020_DFA_SAD', '1021_DFA_ANG', '1027_DFA_SAD', '1022_DFA_SAD'):
    copy(sample, tmp_path / 'few', f'{name}_*')
  opened(tmp_path / 'few', tmp_path / 'data')
  # One of the 6,698 training clips is in `validation`.
  assert "'train' has 2 items; the published one has 6697" in caplog.text
  # Of that, no number is published.
  assert "'validation'" not in caplog.text
  assert "'test' has 1 items; the published one has 744" in caplog.text


# Other spellings of the tree.


def test_names_of_clips():
  assert tree.clip('1076_IEO_FEA_HI') == ('1076', 'IEO', 'FEA', 'HI')
  assert tree.clip('1076_IEO_FEA_HI').label == 3
  # As it was published for some years.
  assert tree.clip('1040_ITH_SAD_X').level == 'XX'


@pytest.mark.parametrize(
  'name',
  [
    '',
    '1001_DFA_ANG',
    '1001_DFA_ANG_XX_1',
    '101_DFA_ANG_XX',
    'abcd_DFA_ANG_XX',
    '1001_ABC_ANG_XX',
    '1001_DFA_JOY_XX',
    '1001_DFA_ANG_YY',
  ],
)
def test_other_names_are_refused(name):
  with pytest.raises(ValueError, match='1001_DFA_ANG_XX') as caught:
    tree.clip(name)
  assert repr(name) in str(caught.value)


def test_the_tree_of_extracted_frames(small, tmp_path, caplog):
  """Sounds in Audio, JPEG files instead of videos, lists in CREMAD."""
  (small / 'AudioWAV').rename(small / 'Audio')
  names = sorted(path.stem for path in (small / 'VideoFlash').iterdir())
  shutil.rmtree(small / 'VideoFlash')
  pictures = {}
  for number, name in enumerate(names):
    folder = small / 'Image-01-FPS' / name
    folder.mkdir(parents=True)
    # Not in the order in which they are written.
    for second in (29, 0, 58)[: 2 + number % 2]:
      level = np.full((8, 16, 3), number + 3 * second, np.uint8)
      pictures[name, second] = _media.jpeg(level)
      (folder / f'{second:05}.jpg').write_bytes(pictures[name, second])
    (folder / '._00000.jpg').write_bytes(b'a companion that a Mac leaves')
  (small / 'Image-01-FPS' / '.DS_Store').write_bytes(b'x')
  damaged = small / 'Image-01-FPS' / '1021_DFA_HAP_XX' / '00029.jpg'
  damaged.write_bytes(damaged.read_bytes()[:-40])
  shutil.rmtree(small / 'Image-01-FPS' / '1021_DFA_FEA_XX')
  test = '1020_DFA_SAD_XX'
  rows = [f'{name},{name[9:12]}' for name in names]
  write_list(
    small / 'CREMAD', 'train', [row for row in rows if test not in row]
  )
  write_list(small / 'CREMAD', 'test', [f'{test},SAD'], start='\ufeff')

  for split in SPLITS:
    clips = elements(opened(small, tmp_path / 'data', split))
    for name, element in clips.items():
      expected = [pictures[key] for key in sorted(pictures) if key[0] == name]
      assert list(element['frames']) == expected
  assert list(clips) == [test]
  skipped = _audit.table(
    tmp_path / 'data' / 'crema_d' / 'field' / '1.0.0', 'train'
  )
  assert {row['key']: row['reason'] for row in skipped} == {
    '1021_DFA_FEA_XX': 'missing',
    '1021_DFA_HAP_XX': 'corrupt',
  }
  assert '1 corrupt, 1 missing' in caplog.text


def test_lists_may_begin_with_a_byte_order_mark(tmp_path):
  rows = ['1027_DFA_NEU_XX,NEU', ' 1021_DFA_SAD_XX , SAD ', '']
  write_list(tmp_path, 'train', rows, start='\ufeff')
  write_list(tmp_path, 'test', ['1020_DFA_NEU_XX,NEU'], start='\ufeff')
  divided, _ = tree.splits(tmp_path, by_actor=False)
  assert divided == {
    'train': ['1021_DFA_SAD_XX'],
    'validation': ['1027_DFA_NEU_XX'],
    'test': ['1020_DFA_NEU_XX'],
  }


@pytest.mark.parametrize('old', ['sound', 'video', 'both'])
def test_the_renamed_clip_is_one_clip_in_old_copies(
  small, tmp_path, old, monkeypatch
):
  """It is read, once, whichever of its files has the old name."""
  name = '1021_DFA_SAD_XX'
  before = _media.read_wav(small / 'AudioWAV' / f'{name}.wav')
  for path in small.glob(f'*/{name}.*'):
    if old in ('both', {'.wav': 'sound', '.flv': 'video'}[path.suffix]):
      path.rename(path.with_stem(name[:-1]))
  divided, _ = tree.splits(small, by_actor=True)
  assert divided['train'].count(name) == 1
  assert name[:-1] not in divided['train']
  builder = crema_d_dataset_builder.Builder(data_dir=tmp_path / 'data')
  monkeypatch.setattr(type(builder), 'data_path', tmp_path)
  (pair,) = builder._generate_examples(small, 'train', [name], None)
  np.testing.assert_array_equal(pair[1]['audio'], before)
  assert pair[1]['clip_id'] == name and pair[1]['level'] == 'XX'


def test_the_old_name_in_lists_is_the_renamed_clip(tmp_path):
  write_list(tmp_path, 'train', ['1040_ITH_SAD_X,SAD', f'{CLIP},ANG'])
  write_list(tmp_path, 'test', ['1020_DFA_NEU_XX,NEU'])
  divided, _ = tree.splits(tmp_path, by_actor=False)
  assert divided['train'] == [CLIP, '1040_ITH_SAD_XX']


def test_the_list_of_all_clips_names_those_that_are_missing(small):
  names = ['1020_DFA_SAD_XX', CLIP, '1091_WSI_SAD_XX']
  lines = ['Stimulus_Number,Filename', *(f'1,{name}' for name in names)]
  (small / 'SentenceFilenames.csv').write_text('\n'.join(lines))
  divided, expected = tree.splits(small, by_actor=True)
  assert divided == {
    'train': [CLIP],
    'validation': [],
    'test': ['1020_DFA_SAD_XX', '1091_WSI_SAD_XX'],
  }
  assert expected == dict.fromkeys(SPLITS)


def test_a_clip_counts_though_one_of_its_files_is_missing(small):
  (small / 'AudioWAV' / f'{CLIP}.wav').unlink()
  (small / 'AudioWAV' / '._1021_DFA_ANG_XX.wav').write_bytes(b'x')
  divided, _ = tree.splits(small, by_actor=True)
  assert CLIP in divided['train']
  assert sum(len(names) for names in divided.values()) == 7


# Trees that are broken.


@pytest.mark.parametrize('missing', ['absent', 'empty', 'other'])
def test_a_wrong_folder_shows_the_tree_that_is_expected(tmp_path, missing):
  folder = tmp_path / missing
  if missing != 'absent':
    folder.mkdir()
  if missing == 'other':
    (folder / 'notes.txt').write_text('x')
  with pytest.raises(FileNotFoundError) as caught:
    opened(folder, tmp_path / 'data')
  for part in (str(folder), 'AudioWAV/<clip>.wav', 'Image-01-FPS'):
    assert part in str(caught.value)
  if missing == 'other':
    assert 'Found: notes.txt' in str(caught.value)


@pytest.mark.parametrize('part', ['train', 'test'])
def test_one_list_without_the_other_is_refused(small, part):
  write_list(small, part, [f'{CLIP},ANG'])
  with pytest.raises(FileNotFoundError, match=rf'has {part}\.csv but not'):
    tree.splits(small, by_actor=False)
  # The other configuration needs none.
  tree.splits(small, by_actor=True)


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ('1021_DFA_SAD_XX,JOY', 'line 2: .*NEU, HAP, SAD, FEA, DIS, ANG'),
    ('1021_DFA_SAD_XX', 'line 2: .*separated by a comma'),
    ('1021_DFA_SAD_XX;SAD', 'line 2: .*separated by a comma'),
    ('1021_DFA_SAD_XX,SAD,0.5', 'line 2: .*separated by a comma'),
    ('1021_DFA_SAD_XX,2', 'line 2: .*separated by a comma'),
    ('1021_DFA_SAD_XX.wav,SAD', 'line 2: .*1001_DFA_ANG_XX'),
    ('1021_DFA_SAD_XX,HAP', 'line 2: .*listed as HAP.*says SAD'),
    (f'{CLIP},ANG', f'lists {CLIP} 2 times'),
    ('1020_DFA_NEU_XX,NEU', 'are in both train.csv and test.csv'),
  ],
)
def test_wrong_rows_of_a_list_are_named(tmp_path, row, message):
  write_list(tmp_path, 'train', [f'{CLIP},ANG', row])
  write_list(tmp_path, 'test', ['1020_DFA_NEU_XX,NEU'])
  with pytest.raises(ValueError, match=message) as caught:
    tree.splits(tmp_path, by_actor=False)
  assert str(tmp_path) in str(caught.value)


def test_a_list_with_a_header_is_refused(tmp_path):
  write_list(tmp_path, 'train', ['clip,emotion', f'{CLIP},ANG'])
  write_list(tmp_path, 'test', ['1020_DFA_NEU_XX,NEU'])
  with pytest.raises(ValueError, match=re.escape("got ['clip', 'emotion']")):
    tree.splits(tmp_path, by_actor=False)


def test_an_empty_list_is_refused(tmp_path):
  write_list(tmp_path, 'train', [])
  write_list(tmp_path, 'test', ['1020_DFA_NEU_XX,NEU'])
  with pytest.raises(ValueError, match=r'train\.csv has no row'):
    tree.splits(tmp_path, by_actor=False)


@pytest.mark.parametrize(
  ('lines', 'message'),
  [
    (['Number,Name', f'1,{CLIP}'], r"\['Number', 'Name'\].*Filename"),
    (['Number,Filename', f'1,{CLIP}', '2'], "line 3: '' is no name"),
    (['Number,Filename', '1,a.wav'], "line 2: 'a.wav' is no name"),
    ([''], r'columns .*; expected'),
  ],
)
def test_a_wrong_list_of_all_clips_is_named(small, lines, message):
  path = small / 'SentenceFilenames.csv'
  path.write_text('\n'.join(lines))
  with pytest.raises(ValueError, match=message) as caught:
    tree.splits(small, by_actor=True)
  assert str(path) in str(caught.value)


def damage(root):
  """Breaks a clip in each way; returns clip -> reason, and clips to mend."""

  def write(name, suffix, data):
    folder = {'wav': 'AudioWAV', 'flv': 'VideoFlash'}[suffix]
    path = root / folder / f'1021_{name}_XX.{suffix}'
    old = path.read_bytes()
    if data is None:
      path.unlink()
    else:
      path.write_bytes(data(old) if callable(data) else data)

  pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9'
  for name, suffix, data, _ in (
    damages := [
      ('DFA_NEU', 'wav', pointer, 'lfs_pointer'),
      ('DFA_HAP', 'wav', None, 'missing'),
      ('DFA_SAD', 'wav', b'', 'corrupt'),
      ('DFA_FEA', 'wav', lambda old: old[:-7], 'corrupt'),
      ('DFA_DIS', 'wav', b'<html>Too many downloads</html>', 'corrupt'),
      ('IEO_NEU', 'flv', pointer, 'lfs_pointer'),
      ('IEO_HAP', 'flv', None, 'missing'),
      ('IEO_SAD', 'flv', b'', 'corrupt'),
      ('IEO_FEA', 'flv', lambda old: old[: len(old) // 2], 'corrupt'),
      ('IEO_DIS', 'flv', b'<html>Too many downloads</html>', 'corrupt'),
    ]
  ):
    write(name, suffix, data)
  path = root / 'AudioWAV' / '1021_IEO_ANG_XX.wav'
  soundfile.write(path, np.zeros(0), 16_000, subtype='PCM_16')
  return {
    **{f'1021_{name}_XX': reason for name, _, _, reason in damages},
    '1021_IEO_ANG_XX': 'too_short',
  }


def test_damaged_clips_are_counted_and_listed_and_mended_ones_are_read(
  sample, tmp_path, caplog
):
  root = tmp_path / 'broken'
  for pattern in ('1020_DFA_SAD_*', '1021_*', '1027_DFA_SAD_*'):
    copy(sample, root, pattern)
  expected = damage(root)
  # A silent clip is a clip: one of the published ones is said to be.
  silent = root / 'AudioWAV' / f'{CLIP}.wav'
  soundfile.write(silent, np.zeros(20_000), 16_000, subtype='PCM_16')

  found = elements(opened(root, tmp_path / 'data'))
  assert list(found) == [CLIP]
  np.testing.assert_array_equal(found[CLIP]['audio'], np.zeros(20_000))
  prepared = tmp_path / 'data' / 'crema_d' / 'field' / '1.0.0'
  table = _audit.table(prepared, 'train')
  assert {row['key']: row['reason'] for row in table} == expected
  for row in table:
    assert str(root) in row['detail'] and row['key'] in row['detail']
  assert (
    "'train' has 1 items. Skipped: 6 corrupt, 2 lfs_pointer, 2 missing, 1"
    ' too_short; skipped-train.csv' in caplog.text
  )
  assert _audit.table(prepared, 'test') == []

  copy(sample, root, '1021_*')
  mended = elements(opened(root, tmp_path / 'mended'))
  assert mended.keys() == {CLIP, *expected}
  assert (
    _audit.table(tmp_path / 'mended' / 'crema_d' / 'field' / '1.0.0', 'train')
    == []
  )


def test_a_split_of_which_nothing_can_be_read_is_an_error(small, tmp_path):
  """A clone without Git LFS: every file is a pointer."""
  for path in small.glob('*/*.*'):
    path.write_text('version https://git-lfs.github.com/spec/v1\n')
  with pytest.raises(ValueError, match=r"split 'train'.*of 5 .*Git LFS"):
    opened(small, tmp_path / 'data')


def test_an_interrupted_preparation_starts_again(small, tmp_path, monkeypatch):
  read = _media.read_wav

  def interrupt(path):
    if '1027' in path.name:  # after the training split has been written
      raise KeyboardInterrupt
    return read(path)

  with monkeypatch.context() as patch:
    patch.setattr(_media, 'read_wav', interrupt)
    with pytest.raises(KeyboardInterrupt):
      opened(small, tmp_path / 'data')
  folder = tmp_path / 'data' / 'crema_d' / 'field' / '1.0.0'
  assert not folder.exists()
  sizes = [len(opened(small, tmp_path / 'data', split)) for split in SPLITS]
  assert sizes == [5, 1, 1]
  assert folder.exists()


# What is told of it.


def test_figures_are_those_of_the_data_set():
  assert sum(tree.FIELD.values()) == tree.NUM_CLIPS == 7_442
  assert len(tree.SENTENCES) == len(set(tree.SENTENCES)) == 12


def test_the_builder_tells_citation_and_valid_tags(tmp_path):
  builder = crema_d_dataset_builder.Builder(data_dir=tmp_path)
  assert 'cao2014cremad' in builder.info.citation
  for fact in ('7,442', '91 actors', '6,698', '744'):
    assert fact in builder.info.description
  tags = builder.get_metadata().tags
  assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())
