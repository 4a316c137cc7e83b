"""AVE: the official folder, whole and broken; repeated videos; labels."""

import numpy as np
import pytest

from data_pipelines.ave import tree
from tests import clips

LISTS = {'train': 'train', 'validation': 'val', 'test': 'test'}
NAME = 'ave'


def lines_of(root, split):
  return (root / f'{LISTS[split]}Set.txt').read_text().splitlines()


def write(root, split, lines):
  (root / f'{LISTS[split]}Set.txt').write_text('\n'.join(lines) + '\n')


def as_banjos(lines):
  return [f'Banjo&{line.split("&")[1]}&good&0&10' for line in lines]


def test_stored_values_are_those_of_the_tree(sample, stored):
  for split in clips.SPLITS:
    elements = stored('ave', split)
    lines = lines_of(sample, split)
    # Lists are followed, in their order: the official validation split, too.
    assert len(elements) == len(lines)
    for element, line in zip(elements, lines, strict=True):
      category, video, _, start, end = line.split('&')
      assert element['clip_id'].item().decode() == video
      assert tree.CLASSES[element['label']] == category
      assert (element['start'], element['end']) == (int(start), int(end))
      for name in ('label', 'start', 'end', 'segment_labels'):
        assert element[name].dtype == np.int64
      before, after = int(start), 10 - int(end)
      during = [element['label']] * (int(end) - int(start))
      wanted = [28] * before + during + [28] * after
      np.testing.assert_array_equal(element['segment_labels'], wanted)
      path = sample / 'AVE' / f'{video}.mp4'
      np.testing.assert_array_equal(element['audio'], clips.waveform(path))
      assert element['audio'].dtype == np.int16
      if int(video[7:]) % 3 == 0:
        assert clips.numbers(element['frames'], path) == list(range(10))


def test_classes_are_numbered_in_the_order_of_the_lists():
  assert len(set(tree.CLASSES)) == 28
  assert tree.CLASSES[6:8] == ('Helicopter', 'Violin, fiddle')
  assert tree.CLASSES[27] == 'Mandolin'


def test_the_sample_shows_events_only_in_their_seconds(stored):
  """Events are coloured; grey has no saturation."""
  for element in stored('ave', 'test'):
    colours = clips.decoded(element['frames']).mean((1, 2))
    is_event = np.ptp(colours, axis=1) > 40
    np.testing.assert_array_equal(is_event, element['segment_labels'] < 28)


def test_the_data_may_be_one_folder_below(broken, tmp_path):
  (tmp_path / 'above').mkdir()
  broken.rename(tmp_path / 'above' / 'AVE_Dataset')
  part = clips.parts(NAME, tmp_path / 'above')['train']
  (video, event), *_ = part.items.items()
  assert len(part.read(video, event)['frames']) == 10


def test_the_first_line_of_a_video_is_used_and_others_are_skipped(broken):
  """An empty event is kept, with background in all seconds."""
  lines = lines_of(broken, 'train')
  category, video, *_ = lines[3].split('&')
  lines[3] = f'{category}&{video}&good&0&0'
  lines += as_banjos(lines[2:5])
  write(broken, 'train', lines)
  part = clips.parts(NAME, broken)['train']
  assert clips.reasons(part.items) == [''] * 40 + ['duplicate'] * 3
  assert [key[:11] for key in list(part.items)[40:]] == [
    f'sample-{number:04d}' for number in (2, 3, 4)
  ]
  banjo = tree.CLASSES.index('Banjo')
  assert all(event.label != banjo for event in list(part.items.values())[:40])
  element = part.read(video, part.items[video])
  assert element['segment_labels'] == [28] * 10
  assert tree.CLASSES[element['label']] == category


def test_a_video_in_two_lists_stays_in_the_later_one(broken):
  validation, test = (
    as_banjos(lines_of(broken, split)[:count])
    for split, count in (('validation', 2), ('test', 3))
  )
  write(broken, 'train', [*validation, *lines_of(broken, 'train'), *test])
  write(broken, 'validation', [*lines_of(broken, 'validation'), *test[:1]])
  parts = tree.splits(broken)
  other = 'in_other_split'
  assert {split: clips.reasons(items) for split, items in parts.items()} == {
    'train': [other] * 2 + [''] * 40 + [other] * 3,
    'validation': [''] * 10 + [other],
    'test': [''] * 10,
  }


def test_expected_counts_follow_from_the_official_lists_and_our_rules(
  tmp_path,
):
  """3,339, 402, 402 lines; 3,312, 401, 402 videos; 10 and 8 in two lists."""
  train, validation, test = (
    [f'{letter}{number:010d}' for number in range(count)]
    for letter, count in (('a', 3_312 - 18), ('v', 401), ('t', 402))
  )
  train += train[:27] + validation[:10] + test[:8]
  for split, videos, count in (
    ('train', train, 3_339),
    ('validation', [*validation, validation[7]], 402),
    ('test', test, 402),
  ):
    assert len(videos) == count
    write(tmp_path, split, [f'Cat&{video}&good&0&9' for video in videos])
  parts = tree.splits(tmp_path)
  assert {
    split: clips.reasons(items).count('') for split, items in parts.items()
  } == tree.EXPECTED
  assert len(parts['train']) == 3_339  # Skipped lines are listed, too.


def test_a_header_is_skipped(broken):
  lines = lines_of(broken, 'train')
  for header in (
    'Category&VideoID&Quality&StartTime&EndTime',
    '\ufeffevent&id&q&begin&end',
  ):
    text = '\n'.join([header, *lines, ''])
    (broken / 'trainSet.txt').write_text(text, encoding='utf-8')
    items = tree.splits(broken)['train']
    assert list(items) == [line.split('&')[1] for line in lines]


def test_errors_name_wrong_lines_of_the_lists(broken):
  whole = lines_of(broken, 'validation')
  for line, message in (
    ('Cat&0123456789a&good&0', 'expected <category>&<id>'),
    ('Cat, 0123456789a, good, 0, 10', 'expected <category>&<id>'),
    ('Cat&&good&0&10', 'expected <category>&<id>'),
    ('Cat&../../x&good&0&10', "'../../x' is no YouTube id"),
    ('Cat&/etc/passwd&good&0&10', "'/etc/passwd' is no YouTube id"),
    ('Dog&0123456789a&good&0&10', "'Dog' is not one of the categories"),
    ('Violin&0123456789a&good&0&10', "'Violin' is not one.*Violin, fiddle;"),
    ('Cat&0123456789a&good&0&11', 'start 0 and end 11'),
    ('Cat&0123456789a&good&5&4', 'start 5 and end 4'),
    ('Cat&0123456789a&good&-1&4', 'start -1 and end 4'),
    ('Cat&0123456789a&good&0.5&4', r'start 0\.5 and end 4'),
    ('Category&VideoID&Quality&StartTime&EndTime', "'Category' is not one"),
  ):
    write(broken, 'validation', [*whole, line])
    where = f'{broken / "valSet.txt"}, line 11: .*'
    with pytest.raises(ValueError, match=where + message):
      tree.splits(broken)
  write(broken, 'validation', [])
  with pytest.raises(ValueError, match=r'valSet\.txt has no line'):
    tree.splits(broken)
