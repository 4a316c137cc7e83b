"""Kinetics-Sounds: lists and media as users have them, whole and broken."""

import collections
import fractions
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import sample_tree
from data_pipelines.kinetics_sounds import kinetics_sounds_dataset_builder
from data_pipelines.kinetics_sounds import tree
from data_pipelines.reading import _audit
from data_pipelines.reading import _clips
from data_pipelines.samples import _sample
from tests import clips

COUNTS = {'train': 47, 'validation': 9, 'test': 16}
PREPARED = 'kinetics_sounds/field/1.0.0'

opened = clips.opener('kinetics_sounds')


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
  root = tmp_path_factory.mktemp('sample') / 'kinetics_sounds'
  sample_tree.write('kinetics_sounds', root)
  return root


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory, sample):
  folder = tmp_path_factory.mktemp('data')
  opened(sample, folder)
  return folder


@pytest.fixture
def broken(tmp_path, sample):
  """A tree of its own, to break."""
  return shutil.copytree(sample, tmp_path / 'broken')


@pytest.fixture(scope='module')
def listed(sample):
  """Split -> (id, start) -> class, read from the lists without our code."""
  rows = {}
  for part in ('train', 'test'):
    rows[part] = {}
    for line in (sample / f'my_{part}.txt').read_text().split():
      name, _, label = line.split(',')
      rows[part][name[:11], int(name[12:].split('_')[0])] = int(label)
  return rows


@pytest.mark.parametrize('split', COUNTS)
def test_every_stored_value_is_that_of_the_tree(
  sample, data_dir, listed, split
):
  elements = opened(None, data_dir, split)
  assert len(elements) == COUNTS[split]
  for element in elements:
    name = element['clip_id'].item().decode()
    clip = name[:11], int(name[12:])
    part = 'test' if split == 'test' else 'train'
    assert element['label'] == listed[part][clip]
    assert element['label'].dtype == np.int64
    (path,) = (sample / 'train').glob(f'{name}_*.mp4')
    np.testing.assert_array_equal(element['audio'], clips.waveform(path))
    assert element['audio'].dtype == np.int16
    numbers = clips.numbers(element['frames'], path)
    count = len(clips.pictures(path))
    # At five frames a second, 0.5, 1.5, 2.5 s are frames 2, 7 and 12.
    first = [place for place in (2, 7, 12) if place < count]
    assert numbers[: len(first)] == first and len(numbers) == 10
    # A place past the end is one in the last second of a video that short.
    assert min(numbers[len(first) :]) >= (count - 1) // 5 * 5


def test_lists_are_followed_and_no_video_is_in_two_splits(data_dir, listed):
  names = {split: clips.ids(opened(None, data_dir, split)) for split in COUNTS}
  videos = {split: {name[:11] for name in names[split]} for split in COUNTS}
  assert sum(map(len, videos.values())) == len(set().union(*videos.values()))
  assert videos['test'] == {video for video, _ in listed['test']}
  assert videos['train'] | videos['validation'] == {
    video for video, _ in listed['train']
  }


def test_two_clips_of_one_video_are_never_in_two_splits(broken):
  lines = (broken / 'my_train.txt').read_text().split()
  again = [f'{line[:11]}_777,10,3' for line in lines]
  (broken / 'my_train.txt').write_text('\n'.join([*lines, *again]))
  parts, _ = tree.splits(broken)
  videos = {
    split: collections.Counter(key[:11] for key in items)
    for split, items in parts.items()
  }
  assert not videos['train'].keys() & videos['validation'].keys()
  assert set(videos['validation'].values()) == {2}


def test_published_counts_of_train_are_those_without_validation(sample):
  _, expected = tree.splits(sample)
  assert expected == {
    'train': 14_799 - COUNTS['validation'],
    'validation': None,
    'test': 2_597,
  }


def test_class_numbers_are_alphabetical_whatever_is_on_disk(broken, tmp_path):
  assert len(tree.CLASSES) == 31 and list(tree.CLASSES) == sorted(tree.CLASSES)
  for path in (broken / 'train').iterdir():
    # Of the sample's classes 5, 12, 17 and 27, in turn, leave one.
    if int(path.name[7:11]) % 4 != 2:
      path.unlink()
  elements = opened(broken, tmp_path / 'data')
  assert set(clips.labels(elements)) == {17}
  assert tree.CLASSES[17] == 'playing_saxophone'


@pytest.mark.parametrize('name', ['audio', 'frames'])
def test_the_sample_can_be_learned_from_either_modality(data_dir, name):
  train, test = (opened(None, data_dir, part) for part in ('train', 'test'))
  assert clips.nearest_mean_accuracy(train, test, name) > 0.9


@pytest.mark.parametrize(
  'name',
  [
    '0_2-4567_9a_30',
    '0_2-4567_9a_000030',
    '0_2-4567_9a_000030_000040',
    '0_2-4567_9a_30_40',
  ],
)
def test_all_spellings_name_the_same_clip(name):
  assert _clips.clip(name) == ('0_2-4567_9a', 30)


@pytest.mark.parametrize('name', ['0123456789_30', '0123456789ab', 'a b_3', ''])
def test_other_names_are_no_clips(name):
  with pytest.raises(ValueError, match='is no name of a clip'):
    _clips.clip(name)


def kinetics_rows(split):
  """Rows of annotations: all 31 classes, and one of Kinetics' other ones."""
  letter = split[0]
  rows = [
    (label.replace('_', ' '), f'{letter}-{number:09d}', str(number))
    for number, label in enumerate([*tree.CLASSES, 'abseiling'])
  ]
  return [
    'label,youtube_id,time_start,time_end,split',
    *(
      f'"{label}",{video},{start},{int(start) + 10},{split}'
      for label, video, start in rows
    ),
  ]


@pytest.mark.parametrize('names', ['validate', 'val', 'annotations/val'])
def test_without_the_lists_kinetics_annotations_are_followed(
  tmp_path, names, caplog
):
  folder = (tmp_path / names).parent
  folder.mkdir(exist_ok=True)
  (folder / 'train.csv').write_text('\n'.join(kinetics_rows('train')))
  test = '\ufeff' + '\n'.join(kinetics_rows('val'))
  (tmp_path / f'{names}.csv').write_text(test, encoding='utf-8')
  parts, expected = tree.splits(tmp_path)
  train = {**parts['train'], **parts['validation']}
  for items, letter in ((train, 't'), (parts['test'], 'v')):
    assert {key: item.label for key, item in items.items()} == {
      f'{letter}-{number:09d}_{number:06d}': number for number in range(31)
    }
  assert set(expected.values()) == {None}
  assert not caplog.records


def test_classes_that_annotations_lack_are_named(tmp_path, caplog):
  rows = [row for row in kinetics_rows('train') if 'bowling' not in row]
  (tmp_path / 'train.csv').write_text('\n'.join(rows))
  (tmp_path / 'val.csv').write_text('\n'.join(kinetics_rows('val')))
  parts, _ = tree.splits(tmp_path)
  assert len(parts['train']) + len(parts['validation']) == 30
  assert 'train.csv has no row of the classes bowling' in caplog.text


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('label,youtube_id\nsinging,0123456789a', "'youtube_id'.*time_start"),
    ('', 'columns None'),
    ('label,youtube_id,time_start\nsinging,0123456789a,x', 'line 2.*_x'),
    ('label,youtube_id,time_start\nsinging,0123456789a', 'line 2.*0123'),
    ('label,youtube_id,time_start\nabseiling,0123456789a,3', 'no row of the'),
  ],
)
def test_wrong_annotations_are_refused(tmp_path, text, message):
  (tmp_path / 'train.csv').write_text(text)
  (tmp_path / 'val.csv').write_text('\n'.join(kinetics_rows('val')))
  with pytest.raises(ValueError, match=message) as caught:
    tree.splits(tmp_path)
  assert str(tmp_path / 'train.csv') in str(caught.value)


@pytest.mark.parametrize(
  'line',
  [
    '0123456789a_30,10,31',
    '0123456789a_30,10,-1',
    '0123456789a_30,10,singing',
    '0123456789a_30,25,10',
    '0123456789a_30,10',
    '0123456789_30,10,3',
  ],
)
def test_wrong_lines_of_the_lists_are_named(broken, line):
  path = broken / 'my_train.txt'
  path.write_text('\ufeff' + path.read_text() + line, encoding='utf-8')
  with pytest.raises(ValueError, match='line 57: ') as caught:
    tree.splits(broken)
  assert str(path) in str(caught.value) and line.split(',')[0] in str(
    caught.value
  )


def test_an_empty_list_is_refused(broken):
  (broken / 'my_test.txt').write_text('\n')
  with pytest.raises(ValueError, match=r'my_test\.txt has no row'):
    tree.splits(broken)


@pytest.mark.parametrize('gone', [['my_test.txt'], ['my_train.txt'], None])
def test_missing_lists_show_the_tree_and_what_was_found(broken, gone):
  for name in gone or ['my_test.txt', 'my_train.txt']:
    (broken / name).unlink()
  with pytest.raises(FileNotFoundError) as caught:
    tree.splits(broken)
  for part in (str(broken), tree.TREE, 'Found:', 'train/kinetic0000_000005'):
    assert part in str(caught.value)
  assert ('only my_' in str(caught.value)) == (gone is not None)


@pytest.mark.parametrize('missing', ['absent', 'empty'])
def test_a_wrong_folder_shows_the_tree_that_is_expected(tmp_path, missing):
  folder = tmp_path / missing
  if missing == 'empty':
    folder.mkdir()
  with pytest.raises(FileNotFoundError) as caught:
    opened(folder, tmp_path / 'data')
  assert str(folder) in str(caught.value) and tree.TREE in str(caught.value)


def test_lists_without_media_are_no_data_set(broken, tmp_path):
  shutil.rmtree(broken / 'train')
  with pytest.raises(ValueError, match=r'no item.*has no video kinetic'):
    opened(broken, tmp_path / 'data')


def test_what_cannot_be_read_is_counted_and_listed(broken, tmp_path):
  train = clips.ids(opened(broken, tmp_path / 'whole'))
  wanted = []
  for name, (damage, reason) in zip(
    train, clips.DAMAGES.values(), strict=False
  ):
    (path,) = (broken / 'train').glob(f'{name}_*')
    damage(path)
    wanted.append((name, reason))
  kept = clips.ids(opened(broken, tmp_path / 'data'))
  rows = _audit.table(tmp_path / 'data' / PREPARED, 'train')
  assert [(row['key'], row['reason']) for row in rows] == wanted
  assert all(row['key'] in row['detail'] for row in rows)
  assert kept == train[len(wanted) :]
  # Other splits are what they were.
  test = opened(None, tmp_path / 'data', 'test')
  assert len(test) == COUNTS['test']
  assert _audit.table(tmp_path / 'data' / PREPARED, 'test') == []


def test_a_repaired_tree_prepares_all_clips(broken, sample, tmp_path):
  for path in (broken / 'train').iterdir():
    clips.truncate(path)
  with pytest.raises(ValueError, match='no item of the split'):
    opened(broken, tmp_path / 'data')
  shutil.copytree(sample, broken, dirs_exist_ok=True)
  assert len(opened(broken, tmp_path / 'data')) == COUNTS['train']


def test_repeated_clips_and_videos_of_test_are_counted(broken, tmp_path):
  path = broken / 'my_train.txt'
  lines = path.read_text().split()
  leaked = (broken / 'my_test.txt').read_text().split()[0]
  # The first line of a clip counts, whatever its spelling.
  repeated = f'{lines[1][:11]}_{int(lines[1][12:18])},10,30'
  path.write_text('\n'.join([*lines, leaked, repeated]))
  elements = opened(broken, tmp_path / 'data')
  rows = _audit.table(tmp_path / 'data' / PREPARED, 'train')
  assert [row['reason'] for row in rows] == ['in_other_split', 'duplicate']
  assert leaked[:11] in rows[0]['key'] and lines[1][:18] in rows[1]['key']
  assert len(elements) == COUNTS['train']
  assert elements[0]['label'] == int(lines[1].split(',')[2]) != 30


def processed(broken):
  """Puts WAV files and folders of pictures in place of the videos."""
  random = np.random.RandomState(1)
  for path in sorted((broken / 'train').iterdir()):
    start = int(path.stem[12:18])
    # The spelling of the field's test list.
    name = f'{path.stem[:11]}_{start}'
    sound = random.uniform(-1, 1, 4_000).astype(np.float32)
    _sample.write_wav(broken / 'audio' / f'{name}.wav', sound)
    for number in range(1, 5 + start % 7):
      picture = random.randint(0, 255, (8, 12, 3)).astype(np.uint8)
      jpeg = broken / 'visual' / name / f'frame_{number:05d}.jpg'
      _sample.write_jpeg(jpeg, picture)
    path.unlink()


def test_sounds_and_pictures_of_others_are_stored_as_they_are(broken, tmp_path):
  processed(broken)
  # macOS writes such files on foreign disks.
  folder = broken / 'visual' / 'kinetic0001_6'
  (folder / '._frame_00001.jpg').write_bytes(b'\0')
  (broken / 'audio' / '._kinetic0001_6.wav').write_bytes(b'\0')
  element = opened(broken, tmp_path / 'data')[0]
  assert element['clip_id'].item() == b'kinetic0001_000006'
  wav = (broken / 'audio' / 'kinetic0001_6.wav').read_bytes()
  np.testing.assert_array_equal(
    element['audio'], np.frombuffer(wav[44:], np.int16)
  )
  paths = [folder / f'frame_{number:05d}.jpg' for number in range(1, 11)]
  assert list(element['frames']) == [path.read_bytes() for path in paths]


def test_damaged_sounds_and_pictures_are_counted(broken, tmp_path):
  processed(broken)
  audio, visual = broken / 'audio', broken / 'visual'
  clips.truncate(audio / 'kinetic0001_6.wav')
  _sample.write_wav(audio / 'kinetic0002_7.wav', np.zeros(0, np.float32))
  (audio / 'kinetic0003_8.wav').unlink()
  clips.truncate(visual / 'kinetic0005_10' / 'frame_00002.jpg')
  shutil.rmtree(visual / 'kinetic0008_13')
  for number in range(4, 11):
    path = visual / 'kinetic0009_14' / f'frame_{number:05d}.jpg'
    path.unlink(missing_ok=True)
  opened(broken, tmp_path / 'data')
  rows = _audit.table(tmp_path / 'data' / PREPARED, 'train')
  assert {row['key'][7:11]: row['reason'] for row in rows} == {
    '0001': 'corrupt',
    '0002': 'too_short',
    '0003': 'missing',
    '0005': 'corrupt',
    '0008': 'missing',
    '0009': 'too_short',
  }


def test_videos_are_found_in_folders_of_classes_and_behind_links(
  broken, tmp_path
):
  for path in (broken / 'train').iterdir():
    folder = tmp_path / 'disk' / f'class {path.name[10]}'
    folder.mkdir(parents=True, exist_ok=True)
    path.rename(folder / path.name)
  (broken / 'train').rmdir()
  (broken / 'clips').symlink_to(tmp_path / 'disk')
  assert len(opened(broken, tmp_path / 'data')) == COUNTS['train']


def test_a_video_of_ten_seconds_gives_each_half_second(broken, tmp_path):
  (path,) = (broken / 'train').glob('kinetic0001_*')
  random = np.random.RandomState(2)
  _sample.write_video(
    path,
    list(random.randint(0, 255, (120, 32, 48, 3)).astype(np.uint8)),
    fractions.Fraction(12),
    random.uniform(-0.5, 0.5, 16_000).astype(np.float32),
  )
  element = opened(broken, tmp_path / 'data')[0]
  assert clips.numbers(element['frames'], path) == list(range(6, 120, 12))


def test_the_builder_tells_citation_and_valid_tags(tmp_path):
  builder = kinetics_sounds_dataset_builder.Builder(data_dir=tmp_path)
  assert 'arandjelovic2017look' in builder.info.citation
  assert builder.info.features['label'].names == list(tree.CLASSES)
  tags = builder.get_metadata().tags
  assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())


def test_the_readme_states_the_counts_of_the_code():
  readme = pathlib.Path(tree.__file__).with_name('README.md').read_text()
  counts = set(re.findall(r'\d+,\d{3}', readme))
  assert counts == {f'{count:,}' for count in tree.FIELD.values()}
