"""CREMA-D: from the published tree to stored elements, and broken trees."""

import csv
import functools
import re
import shutil
import wave

import numpy as np
import pytest
import soundfile

from data_pipelines import sources
from data_pipelines.crema_d import tree
from data_pipelines.reading import pictures
from data_pipelines.reading import sounds
from tests import clips

# Actors of the sample, assigned by the hash of their numbers.
ACTORS = {'validation': {'1027'}, 'test': {'1020', '1022'}}
NAME = 'crema_d'
CLIP = '1021_DFA_ANG_XX'

read = functools.partial(clips.opened, NAME)


@pytest.fixture
def of_sample(stored):
  """Split -> clip -> element, of the default configuration."""
  return {split: by_clip(stored('crema_d', split)) for split in clips.SPLITS}


@pytest.fixture
def small(sample, tmp_path):
  """A tree without lists: seven clips of three actors, one in each split."""
  patterns = ('1020_DFA_SAD_*', '1027_DFA_SAD_*', '1021_DFA_[!N]*')
  return copy(sample, tmp_path / 'small', *patterns)


def copy(sample, root, *patterns):
  for pattern in patterns:
    for path in sample.glob(f'*/{pattern}'):
      (root / path.parent.name).mkdir(parents=True, exist_ok=True)
      shutil.copy(path, root / path.parent.name)
  return root


def text(element, name):
  return element[name].item().decode()


def by_clip(elements):
  named = dict(zip(clips.ids(elements), elements, strict=True))
  assert len(named) == len(elements)
  return named


def write_list(root, part, rows, start=''):
  root.mkdir(parents=True, exist_ok=True)
  lines = ''.join(f'{row}\r\n' for row in rows)
  (root / f'{part}.csv').write_bytes((start + lines).encode())


def listed(root, part):
  with (root / f'{part}.csv').open(newline='') as file:
    return {name: emotion for name, emotion in csv.reader(file)}


# Stored values.


def test_stored_values_are_those_of_the_tree(sample, of_sample):
  for elements in of_sample.values():
    for name, element in elements.items():
      with wave.open(str(sample / 'AudioWAV' / f'{name}.wav')) as file:
        frames = file.readframes(file.getnframes())
      np.testing.assert_array_equal(
        element['audio'], np.frombuffer(frames, '<i2')
      )
      assert element['audio'].dtype == np.int16
      parts = [
        text(element, part)
        for part in ('actor', 'sentence', 'emotion', 'level')
      ]
      assert '_'.join(parts) == name
      assert element['label'] == tree.EMOTIONS.index(name.split('_')[2])
      assert element['label'].dtype == np.int64


def test_frames_are_the_first_of_each_second(sample, of_sample):
  """The sample has ten frames a second, each with different noise."""
  for name in sorted(of_sample['test'])[::10]:
    path = sample / 'VideoFlash' / f'{name}.flv'
    frames = of_sample['test'][name]['frames']
    wanted = list(range(0, len(clips.pictures(path)), 10))
    assert clips.numbers(frames, path) == wanted and len(wanted) >= 2


def test_classes_are_numbered_as_in_the_field(small, tmp_path):
  """In the small tree, two splits have only the class SAD."""
  assert tree.EMOTIONS == ('NEU', 'HAP', 'SAD', 'FEA', 'DIS', 'ANG')
  builder = sources.builder_of(NAME, None)(data_dir=tmp_path)
  assert tuple(builder.info.features['label'].names) == tree.EMOTIONS
  for split, clip in (('validation', '1027'), ('test', '1020')):
    (element,) = read(small, tmp_path / 'data', split)
    assert clips.ids([element]) == [f'{clip}_DFA_SAD_XX']
    assert element['label'] == 2


def test_the_default_follows_the_fields_lists(sample, of_sample):
  train, test = (listed(sample, part) for part in ('train', 'test'))
  assert of_sample['test'].keys() == test.keys()
  both = {**of_sample['train'], **of_sample['validation']}
  assert both.keys() == train.keys()
  # Clips are sorted by name.
  for elements in of_sample.values():
    assert list(elements) == sorted(elements)


def actors(names):
  return {name.split('_')[0] for name in names}


def test_no_actor_of_validation_is_in_training(of_sample):
  assert actors(of_sample['validation']) == ACTORS['validation']
  assert not actors(of_sample['train']) & ACTORS['validation']
  # In the field's lists, every actor is in test.
  assert len(actors(of_sample['test'])) == 10


def test_in_actor_disjoint_no_actor_is_in_two_splits(stored, sample):
  found = {
    split: clips.ids(stored('crema_d', split, 'actor_disjoint'))
    for split in clips.SPLITS
  }
  for split, expected in ACTORS.items():
    assert actors(found[split]) == expected
  assert len(actors(found['train'])) == 7
  together = [name for names in found.values() for name in names]
  files = [path.stem for path in (sample / 'AudioWAV').iterdir()]
  assert sorted(together) == sorted(files)


# Other spellings of the tree.


def test_a_tree_of_extracted_frames_is_read(small, tmp_path, caplog):
  """It has sounds in Audio, JPEG files instead of videos, lists in CREMAD."""
  (small / 'AudioWAV').rename(small / 'Audio')
  names = sorted(path.stem for path in (small / 'VideoFlash').iterdir())
  shutil.rmtree(small / 'VideoFlash')
  written = {}
  for number, name in enumerate(names):
    folder = small / 'Image-01-FPS' / name
    folder.mkdir(parents=True)
    # Not in the order in which they are written.
    for second in (29, 0, 58)[: 2 + number % 2]:
      level = np.full((8, 16, 3), number + 3 * second, np.uint8)
      written[name, second] = pictures.jpeg(level)
      (folder / f'{second:05}.jpg').write_bytes(written[name, second])
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

  for split in clips.SPLITS:
    found = by_clip(read(small, tmp_path / 'data', split))
    for name, element in found.items():
      expected = [written[key] for key in sorted(written) if key[0] == name]
      assert list(element['frames']) == expected
  assert list(found) == [test]
  assert clips.skipped(tmp_path / 'data') == {
    '1021_DFA_FEA_XX': 'missing',
    '1021_DFA_HAP_XX': 'corrupt',
  }
  assert '1 corrupt, 1 missing' in caplog.text


def test_the_renamed_clip_is_recognised_in_old_copies(small, tmp_path):
  """It is read once, whichever of its files has the old name."""
  name = '1021_DFA_SAD_XX'
  sound, video = small / 'AudioWAV', small / 'VideoFlash'
  before = sounds.read(sound / f'{name}.wav')
  for old, new in (
    ([sound / f'{name[:-1]}.wav'], [video / f'{name}.flv']),
    ([video / f'{name[:-1]}.flv'], [sound / f'{name}.wav']),
    ([sound / f'{name[:-1]}.wav', video / f'{name[:-1]}.flv'], []),
  ):
    for path in (*old, *new):
      one, *_ = path.parent.glob(f'{name[:-1]}*')
      one.rename(path)
    divided, _ = tree.splits(small, by_actor=True)
    assert divided['train'].count(name) == 1
    assert name[:-1] not in divided['train']
    data_dir = tmp_path / f'data {len(old)} {old[0].suffix}'
    element = by_clip(read(small, data_dir))[name]
    np.testing.assert_array_equal(element['audio'], before)
    assert text(element, 'level') == 'XX'


def test_suffixes_in_capital_letters_are_found(small, tmp_path):
  for path in small.glob('*/*.*'):
    path.rename(path.with_suffix(path.suffix.upper()))
  divided, _ = tree.splits(small, by_actor=True)
  assert sum(map(len, divided.values())) == 7
  assert len(read(small, tmp_path / 'data')) == 5


def test_clips_missing_on_disk_are_known_from_the_list_of_all_clips(small):
  names = ['1020_DFA_SAD_XX', CLIP, '1091_WSI_SAD_XX']
  lines = ['Stimulus_Number,Filename', *(f'1,{name}' for name in names)]
  (small / 'SentenceFilenames.csv').write_text('\n'.join(lines))
  divided, expected = tree.splits(small, by_actor=True)
  assert divided == {
    'train': [CLIP],
    'validation': [],
    'test': ['1020_DFA_SAD_XX', '1091_WSI_SAD_XX'],
  }
  assert expected == dict.fromkeys(clips.SPLITS)


def test_a_clip_with_a_missing_file_is_counted(
  small,
):
  (small / 'AudioWAV' / f'{CLIP}.wav').unlink()
  (small / 'AudioWAV' / '._1021_DFA_ANG_XX.wav').write_bytes(b'x')
  divided, _ = tree.splits(small, by_actor=True)
  assert CLIP in divided['train']
  assert sum(map(len, divided.values())) == 7


# Lists.


def test_names_of_clips():
  assert sum(tree.FIELD.values()) == 7_442
  assert len(tree.SENTENCES) == len(set(tree.SENTENCES)) == 12
  assert tree.clip('1076_IEO_FEA_HI') == ('1076', 'IEO', 'FEA', 'HI')
  assert tree.clip('1076_IEO_FEA_HI').label == 3
  # Published under this name for some years.
  assert tree.clip('1040_ITH_SAD_X').level == 'XX'
  for name in (
    '',
    '1001_DFA_ANG',
    '1001_DFA_ANG_XX_1',
    '101_DFA_ANG_XX',
    'abcd_DFA_ANG_XX',
    '1001_ABC_ANG_XX',
    '1001_DFA_JOY_XX',
    '1001_DFA_ANG_YY',
    '../1_DFA_ANG_XX',
  ):
    with pytest.raises(ValueError, match=f'{name!r}.*1001_DFA_ANG_XX'):
      tree.clip(name)


def test_lists_may_have_the_old_name_of_the_renamed_clip(tmp_path):
  write_list(tmp_path, 'train', ['1040_ITH_SAD_X,SAD', f'{CLIP},ANG'])
  write_list(tmp_path, 'test', ['1020_DFA_NEU_XX,NEU'])
  divided, _ = tree.splits(tmp_path, by_actor=False)
  assert divided['train'] == [CLIP, '1040_ITH_SAD_XX']


def test_errors_name_wrong_lists(tmp_path):
  write_list(tmp_path, 'test', ['1020_DFA_NEU_XX,NEU'])
  clip = f'{CLIP},ANG'
  for rows, message in (
    ([clip, '1021_DFA_SAD_XX,JOY'], 'line 2: .*NEU, HAP, .*by a comma'),
    ([clip, '1021_DFA_SAD_XX'], 'line 2: .*separated by a comma'),
    ([clip, '1021_DFA_SAD_XX;SAD'], 'line 2: .*separated by a comma'),
    ([clip, '1021_DFA_SAD_XX,SAD,0.5'], 'line 2: .*separated by a comma'),
    ([clip, '1021_DFA_SAD_XX,2'], 'line 2: .*separated by a comma'),
    ([clip, '1021_DFA_SAD_XX.wav,SAD'], 'line 2: .*1001_DFA_ANG_XX'),
    ([clip, '1021_DFA_SAD_XX,HAP'], 'line 2: .*listed as HAP.*says SAD'),
    ([clip, clip], f'lists {CLIP} 2 times'),
    ([clip, '1020_DFA_NEU_XX,NEU'], 'are in both train.csv and test.csv'),
    (['clip,emotion', clip], re.escape("got ['clip', 'emotion']")),
    ([], r'train\.csv has no row'),
  ):
    write_list(tmp_path, 'train', rows)
    refused = functools.partial(tree.splits, tmp_path, by_actor=False)
    with pytest.raises(ValueError, match=message):
      refused()
    with pytest.raises(ValueError, match=str(tmp_path)):
      refused()


# Broken trees.


def test_a_folder_without_a_clip_shows_what_was_found(tmp_path):
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'notes.txt').write_text('x')
  with pytest.raises(FileNotFoundError, match=r'Found: notes\.txt'):
    read(tmp_path / 'other', tmp_path / 'data')


def test_one_list_without_the_other_is_refused(small):
  for part in ('train', 'test'):
    write_list(small, part, [f'{CLIP},ANG'])
    with pytest.raises(FileNotFoundError, match=rf'has {part}\.csv but not'):
      tree.splits(small, by_actor=False)
    # The other configuration needs none.
    tree.splits(small, by_actor=True)
    (small / f'{part}.csv').unlink()


def test_errors_name_a_wrong_list_of_all_clips(small):
  path = small / 'SentenceFilenames.csv'
  for lines, message in (
    (['Number,Name', f'1,{CLIP}'], r"\['Number', 'Name'\].*Filename"),
    (['Number,Filename', f'1,{CLIP}', '2'], "line 3: '' is no name"),
    (['Number,Filename', '1,a.wav'], "line 2: 'a.wav' is no name"),
    ([''], r'columns .*; expected'),
  ):
    path.write_text('\n'.join(lines))
    with pytest.raises(ValueError, match=f'{path}.*{message}'):
      tree.splits(small, by_actor=True)


def damage(root):
  """Breaks clips in several ways; returns clip -> reason."""
  sound, video = (root / name for name in ('AudioWAV', 'VideoFlash'))
  clips.write_pointer(sound / '1021_DFA_NEU_XX.wav')
  (sound / '1021_DFA_HAP_XX.wav').unlink()
  silence = sound / '1021_DFA_SAD_XX.wav'
  soundfile.write(silence, np.zeros(0), 16_000, subtype='PCM_16')
  (video / '1021_IEO_HAP_XX.flv').unlink()
  clips.truncate(video / '1021_IEO_FEA_XX.flv')
  (video / '1021_IEO_SAD_XX.flv').write_bytes(b'')
  return {
    '1021_DFA_NEU_XX': 'lfs_pointer',
    '1021_DFA_HAP_XX': 'missing',
    '1021_DFA_SAD_XX': 'too_short',
    '1021_IEO_HAP_XX': 'missing',
    '1021_IEO_FEA_XX': 'corrupt',
    '1021_IEO_SAD_XX': 'corrupt',
  }


def test_damaged_clips_are_counted_and_listed_and_repaired_ones_are_read(
  sample, tmp_path, caplog
):
  patterns = ('1020_DFA_SAD_*', '1021_*', '1027_DFA_SAD_*')
  root = copy(sample, tmp_path / 'broken', *patterns)
  names = {path.stem for path in (root / 'AudioWAV').glob('1021_*')}
  expected = damage(root)
  # Silent clips are kept: one of the published ones is said to be silent.
  silent = root / 'AudioWAV' / f'{CLIP}.wav'
  soundfile.write(silent, np.zeros(20_000), 16_000, subtype='PCM_16')

  found = by_clip(read(root, tmp_path / 'data'))
  assert found.keys() == names - expected.keys()
  np.testing.assert_array_equal(found[CLIP]['audio'], np.zeros(20_000))
  prepared = tmp_path / 'data' / 'crema_d' / 'field' / '1.0.0'
  table = clips.table(prepared, 'train')
  assert {row['key']: row['reason'] for row in table} == expected
  for row in table:
    assert str(root) in row['detail'] and row['key'] in row['detail']
  assert (
    "'train' has 6 items. Skipped: 2 corrupt, 1 lfs_pointer, 2 missing, 1"
    ' too_short; skipped-train.csv' in caplog.text
  )
  assert clips.table(prepared, 'test') == []

  copy(sample, root, '1021_*')
  mended = by_clip(read(root, tmp_path / 'mended'))
  assert mended.keys() == names
  assert clips.skipped(tmp_path / 'mended') == {}
