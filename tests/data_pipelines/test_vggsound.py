"""VGGSound: list and media as users have them, whole and broken."""

import collections
import csv
import fractions
import hashlib
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import sample_tree
from data_pipelines.reading import _audit
from data_pipelines.samples import _sample
from data_pipelines.vggsound import labels
from data_pipelines.vggsound import tree
from data_pipelines.vggsound import vggsound_dataset_builder
from tests import clips

COUNTS = {'train': 49, 'validation': 7, 'test': 16}
PREPARED = 'vggsound/official/1.0.0'

opened = clips.opener('vggsound')


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
  root = tmp_path_factory.mktemp('sample') / 'vggsound'
  sample_tree.write('vggsound', root)
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


def append(root, *rows):
  with (root / 'vggsound.csv').open('a', newline='') as file:
    csv.writer(file).writerows(rows)


@pytest.mark.parametrize('split', COUNTS)
def test_every_stored_value_is_that_of_the_tree(sample, data_dir, split):
  lines = (sample / 'vggsound.csv').read_text().splitlines()
  elements = opened(None, data_dir, split)
  assert len(elements) == COUNTS[split]
  for element in elements:
    name = element['clip_id'].item().decode()
    part = 'test' if split == 'test' else 'train'
    label = labels.CLASSES[element['label']]
    line = f'"{name[:11]}",{int(name[12:])},"{label}","{part}"'
    assert line in lines
    assert element['label'].dtype == np.int64
    path = sample / 'video' / f'{name}.mp4'
    np.testing.assert_array_equal(element['audio'], clips.waveform(path))
    assert element['audio'].dtype == np.int16
    # At two frames a second, the first of each second is every other one.
    wanted = list(range(0, len(clips.pictures(path)), 2))
    assert clips.numbers(element['frames'], path) == wanted


def test_the_official_split_is_followed_and_no_video_is_in_two(
  sample, data_dir
):
  names = {split: clips.ids(opened(None, data_dir, split)) for split in COUNTS}
  videos = {split: {name[:11] for name in names[split]} for split in COUNTS}
  assert sum(map(len, videos.values())) == len(set().union(*videos.values()))
  with (sample / 'vggsound.csv').open() as file:
    test = {row[0] for row in csv.reader(file) if row[3] == 'test'}
  assert videos['test'] == test


def test_two_clips_of_one_video_are_never_in_two_splits(broken):
  append(
    broken,
    *((f'vgg_id-{i:04d}', 777, 'thunder', 'train') for i in range(56)),
  )
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
    'train': 183_730 - COUNTS['validation'],
    'validation': None,
    'test': 15_446,
  }
  # stat.csv of the authors has 199,176 clips.
  assert sum(tree.PUBLISHED.values()) == 199_176


def test_classes_are_the_309_of_the_authors_in_alphabetical_order():
  assert len(labels.CLASSES) == 309
  assert list(labels.CLASSES) == sorted(set(labels.CLASSES))
  # Of the names in the authors' stat.csv, sorted.
  digest = hashlib.sha256('\n'.join(labels.CLASSES).encode()).hexdigest()
  assert digest.startswith('a805a53e04dfc611')


def test_class_numbers_do_not_depend_on_what_is_on_disk(broken, tmp_path):
  for path in (broken / 'video').iterdir():
    if int(path.name[7:11]) % 4 != 1:
      path.unlink()
  elements = opened(broken, tmp_path / 'data')
  assert {labels.CLASSES[i] for i in clips.labels(elements)} == {
    'playing violin, fiddle'
  }


@pytest.mark.parametrize('name', ['audio', 'frames'])
def test_the_sample_can_be_learned_from_either_modality(data_dir, name):
  train, test = (opened(None, data_dir, part) for part in ('train', 'test'))
  assert clips.nearest_mean_accuracy(train, test, name) > 0.9


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ('0123456789a,30,"barking, loudly",train', "'barking, loudly' is none"),
    ('0123456789a,30,dog barking', 'expected <id>,<start>'),
    ('0123456789a,30,playing violin, fiddle,train', 'commas in quotes'),
    ('0123456789a,30,dog barking,validation', 'expected <id>,<start>'),
    ('0123456789a,x,dog barking,train', "'0123456789a_x' is no name"),
    ('0123456789,30,dog barking,test', "'0123456789_30' is no name"),
    ('youtube_id,start,label,split', 'expected <id>,<start>'),
  ],
)
def test_wrong_lines_of_the_list_are_named(broken, row, message):
  path = broken / 'vggsound.csv'
  path.write_text('\ufeff' + path.read_text() + row, encoding='utf-8')
  with pytest.raises(ValueError, match=re.escape(f'{path}, line 73: ')) as e:
    tree.splits(broken)
  assert message in str(e.value)


@pytest.mark.parametrize('part', ['train', 'test'])
def test_a_list_without_one_of_the_parts_is_refused(broken, part):
  path = broken / 'vggsound.csv'
  lines = path.read_text().splitlines()
  path.write_text('\n'.join(line for line in lines if part not in line))
  with pytest.raises(ValueError, match=f'csv has no row of {part}'):
    tree.splits(broken)


def test_a_missing_list_shows_the_tree_and_what_was_found(broken):
  (broken / 'vggsound.csv').unlink()
  with pytest.raises(FileNotFoundError) as caught:
    tree.splits(broken)
  for part in (str(broken), tree.TREE, 'video/vgg_id-0000_000005.mp4'):
    assert part in str(caught.value)


def test_a_list_that_is_a_pointer_is_refused(broken):
  clips.write_pointer(broken / 'vggsound.csv')
  with pytest.raises(ValueError, match='pointer of Git LFS'):
    tree.splits(broken)


def test_a_wrong_folder_shows_the_tree_that_is_expected(tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    opened(tmp_path / 'absent', tmp_path / 'data')
  assert 'absent' in str(caught.value) and tree.TREE in str(caught.value)


def test_what_cannot_be_read_is_counted_and_listed(broken, tmp_path):
  train = clips.ids(opened(broken, tmp_path / 'whole'))
  wanted = []
  for name, (damage, reason) in zip(
    train, clips.DAMAGES.values(), strict=False
  ):
    damage(broken / 'video' / f'{name}.mp4')
    wanted.append((name, reason))
  kept = clips.ids(opened(broken, tmp_path / 'data'))
  rows = _audit.table(tmp_path / 'data' / PREPARED, 'train')
  assert [(row['key'], row['reason']) for row in rows] == wanted
  assert all(row['key'] in row['detail'] for row in rows)
  assert kept == train[len(wanted) :]


def test_a_repaired_tree_prepares_all_clips(broken, sample, tmp_path):
  shutil.rmtree(broken / 'video')
  with pytest.raises(ValueError, match=r'no item.*has no video vgg_id'):
    opened(broken, tmp_path / 'data')
  shutil.copytree(sample, broken, dirs_exist_ok=True)
  assert len(opened(broken, tmp_path / 'data')) == COUNTS['train']


def test_rows_that_are_left_out_are_counted(broken, tmp_path):
  # Seconds with leading zeros or without are the same clip.
  append(
    broken,
    ('vgg_id-0001', '0006', 'airplane', 'train'),
    ('0123456789a', 30, 'extending ladders', 'train'),
    ('vgg_id-0071', 30, 'airplane', 'train'),
  )
  elements = opened(broken, tmp_path / 'data')
  assert len(elements) == COUNTS['train']
  assert labels.CLASSES[elements[1]['label']] == 'playing violin, fiddle'
  rows = _audit.table(tmp_path / 'data' / PREPARED, 'train')
  assert [row['reason'] for row in rows] == [
    'duplicate',
    'no_class',
    'in_other_split',
  ]


@pytest.mark.parametrize(('shown', 'kept'), [(3, False), (4, True)])
def test_clips_of_three_frames_are_dropped(broken, tmp_path, shown, kept):
  path = broken / 'video' / 'vgg_id-0001_000006.mp4'
  path.unlink()
  random = np.random.RandomState(0)
  _sample.write_video(
    path,
    list(random.randint(0, 255, (2 * shown, 32, 48, 3)).astype(np.uint8)),
    fractions.Fraction(2),
    random.uniform(-0.5, 0.5, 8_000 * shown).astype(np.float32),
  )
  names = clips.ids(opened(broken, tmp_path / 'data'))
  assert ('vgg_id-0001_000006' in names) == kept
  rows = _audit.table(tmp_path / 'data' / PREPARED, 'train')
  assert [row['reason'] for row in rows] == ([] if kept else ['too_short'])


def test_the_tree_of_ogm_is_read(broken, tmp_path):
  """WAV files beside the videos, and pictures alone, starts unpadded."""
  random = np.random.RandomState(3)
  sounds, jpegs = {}, {}
  for path in sorted((broken / 'video').iterdir()):
    video, start = path.stem[:11], int(path.stem[12:])
    part = 'train' if int(video[7:]) < 56 else 'test'
    name = f'{video}_{start}'
    sounds[path.stem] = random.uniform(-1, 1, 4_000).astype(np.float32)
    wav = broken / f'{part}-audios' / f'{part}-set' / f'{name}.wav'
    _sample.write_wav(wav, sounds[path.stem])
    folder = broken / f'{part}-videos'
    if start % 2:
      to = folder / f'{part}-set' / f'{name}.mp4'
      to.parent.mkdir(parents=True, exist_ok=True)
      path.rename(to)
    else:
      path.unlink()
      pictures = folder / f'{part}-set-img' / 'Image-01-FPS' / f'{name}.mp4'
      for number in range(0, 30 * 4, 29):
        picture = random.randint(0, 255, (8, 12, 3)).astype(np.uint8)
        _sample.write_jpeg(pictures / f'{number:05d}.jpg', picture)
      jpegs[path.stem] = [
        (pictures / f'{number:05d}.jpg').read_bytes()
        for number in range(0, 30 * 4, 29)
      ]
  for split in COUNTS:
    elements = opened(broken, tmp_path / 'data', split)
    assert len(elements) == COUNTS[split]
    for element in elements:
      name = element['clip_id'].item().decode()
      np.testing.assert_allclose(
        element['audio'] / 2**15, sounds[name], atol=2**-15
      )
      if name in jpegs:
        assert list(element['frames']) == jpegs[name]
      else:
        assert len(element['frames']) in (4, 5)


def test_the_builder_tells_citation_and_valid_tags(tmp_path):
  builder = vggsound_dataset_builder.Builder(data_dir=tmp_path)
  assert 'chen2020vggsound' in builder.info.citation
  assert builder.info.features['label'].names == list(labels.CLASSES)
  tags = builder.get_metadata().tags
  assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())


def test_the_readme_states_the_counts_of_the_code():
  readme = pathlib.Path(tree.__file__).with_name('README.md').read_text()
  for count in tree.PUBLISHED.values():
    assert f'{count:,}' in readme
  assert f'in {len(labels.CLASSES)} classes' in readme
