"""VGGSound: the list and media as users have them, whole and broken."""

import csv
import hashlib
import re

import numpy as np
import pytest

from data_pipelines.samples import tiny
from data_pipelines.vggsound import labels
from data_pipelines.vggsound import tree
from tests import clips

COUNTS = {'train': 49, 'validation': 7, 'test': 16}
NAME = 'vggsound'


def append(root, *rows):
  with (root / 'vggsound.csv').open('a', newline='') as file:
    csv.writer(file).writerows(rows)


def test_stored_values_are_those_of_the_tree(sample, stored):
  lines = (sample / 'vggsound.csv').read_text().splitlines()
  for split in COUNTS:
    for element in stored('vggsound', split):
      name = element['clip_id'].item().decode()
      part = 'test' if split == 'test' else 'train'
      label = labels.CLASSES[element['label']]
      line = f'"{name[:11]}",{int(name[12:])},"{label}","{part}"'
      assert line in lines
      assert element['label'].dtype == np.int64
      path = sample / 'video' / f'{name}.mp4'
      np.testing.assert_array_equal(element['audio'], clips.waveform(path))
      assert element['audio'].dtype == np.int16
      if int(name[7:11]) % 3:
        continue  # A third of the pictures are enough.
      # At two frames a second, the first of each second is every other one.
      wanted = list(range(0, len(clips.pictures(path)), 2))
      assert clips.numbers(element['frames'], path) == wanted


def test_classes_are_the_309_of_the_authors_in_alphabetical_order():
  assert len(labels.CLASSES) == 309
  assert list(labels.CLASSES) == sorted(set(labels.CLASSES))
  # The hash of the names in the authors' stat.csv, sorted.
  digest = hashlib.sha256('\n'.join(labels.CLASSES).encode()).hexdigest()
  assert digest.startswith('a805a53e04dfc611')
  # It has as many clips.
  assert sum(tree.PUBLISHED.values()) == 199_176


def test_errors_name_wrong_lines_of_the_list(broken):
  path = broken / 'vggsound.csv'
  whole = path.read_text()
  for row, message in (
    ('0123456789a,30,"barking, loudly",train', "'barking, loudly' is not one"),
    ('0123456789a,30,dog barking', 'expected <id>,<start>'),
    ('0123456789a,30,playing violin, fiddle,train', 'commas in quotes'),
    ('0123456789a,30,dog barking,validation', 'expected <id>,<start>'),
    ('0123456789a,x,dog barking,train', "'0123456789a_x' is no name"),
    ('0123456789,30,dog barking,test', "'0123456789_30' is no name"),
    ('../../6789a,30,dog barking,test', "'../../6789a_30' is no name"),
    ('youtube_id,start,label,split', 'expected <id>,<start>'),
  ):
    path.write_text('\ufeff' + whole + row, encoding='utf-8')
    where = f'{path}, line 73: .*'
    with pytest.raises(ValueError, match=where + re.escape(message)):
      tree.parts(broken)
  for part in ('train', 'test'):
    lines = [line for line in whole.splitlines() if part not in line]
    path.write_text('\n'.join(lines))
    with pytest.raises(ValueError, match=f'csv has no row of {part}'):
      tree.parts(broken)


def test_skipped_rows_are_counted(broken):
  # Seconds with and without leading zeros name the same clip.
  append(
    broken,
    ('vgg_id-0001', '0006', 'airplane', 'train'),
    ('0123456789a', 30, 'extending ladders', 'train'),
    ('vgg_id-0071', 30, 'airplane', 'train'),
  )
  items = clips.parts(NAME, broken)['train'].items
  left_out = ['duplicate', 'no_class', 'in_other_split']
  assert clips.reasons(items) == [''] * COUNTS['train'] + left_out
  label = items['vgg_id-0001_000006'].label
  assert labels.CLASSES[label] == 'playing violin, fiddle'


def test_clips_of_three_frames_are_dropped(broken):
  random = np.random.RandomState(0)
  part = clips.parts(NAME, broken)['train']
  names = {3: 'vgg_id-0001_000006', 4: 'vgg_id-0002_000007'}
  for shown, name in names.items():
    path = broken / 'video' / f'{name}.mp4'
    path.unlink()
    tiny.write_video(
      path,
      list(random.randint(0, 255, (2 * shown, 32, 48, 3)).astype(np.uint8)),
      2,
      random.uniform(-0.5, 0.5, 8_000 * shown).astype(np.float32),
    )
  assert len(part.read('', part.items[names[4]])['frames']) == 4
  found, detail = clips.reason(part.read, '', part.items[names[3]])
  assert found == 'too_short' and names[3] in detail


def test_the_tree_of_ogm_is_read(broken):
  """A WAV file beside a video, or beside pictures; starts without zeros."""
  random = np.random.RandomState(3)
  one, two = 'vgg_id-0001_6', 'vgg_id-0002_7'
  videos = broken / 'train-videos' / 'train-set'
  videos.parent.mkdir()
  (broken / 'video').rename(videos)
  (videos / 'vgg_id-0001_000006.mp4').rename(videos / f'{one}.mp4')
  (videos / 'vgg_id-0002_000007.mp4').unlink()
  images = broken / 'train-videos' / 'train-set-img' / 'Image-01-FPS'
  jpegs = [images / f'{two}.mp4' / f'{29 * n:05d}.jpg' for n in range(5)]
  for path in jpegs:
    picture = random.randint(0, 255, (8, 12, 3)).astype(np.uint8)
    clips.write_jpeg(path, picture)
  sounds = random.uniform(-1, 1, (2, 4_000)).astype(np.float32)
  for name, sound in zip((one, two), sounds, strict=True):
    wav = broken / 'train-audios' / 'train-set' / f'{name}.wav'
    tiny.write_wav(wav, sound)
  part = clips.parts(NAME, broken)['train']
  first, second = (
    part.read('', part.items[key])
    for key in ('vgg_id-0001_000006', 'vgg_id-0002_000007')
  )
  found = np.stack([first['audio'], second['audio']])
  np.testing.assert_allclose(found / 2**15, sounds, atol=2**-15)
  assert len(first['frames']) in (4, 5)
  assert second['frames'] == [path.read_bytes() for path in jpegs]
