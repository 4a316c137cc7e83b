"""AVE: the official folder, whole and broken; repeated videos; seconds."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import sample_tree
from data_pipelines.ave import ave_dataset_builder
from data_pipelines.ave import tree
from data_pipelines.reading import _audit
from tests import clips

COUNTS = {'train': 40, 'validation': 10, 'test': 10}
LISTS = {'train': 'train', 'validation': 'val', 'test': 'test'}
PREPARED = 'ave/official/1.0.0'

opened = clips.opener('ave')


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
  root = tmp_path_factory.mktemp('sample') / 'ave'
  sample_tree.write('ave', root)
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


def lines_of(root, split):
  return (root / f'{LISTS[split]}Set.txt').read_text().splitlines()


def write(root, split, lines):
  (root / f'{LISTS[split]}Set.txt').write_text('\n'.join(lines) + '\n')


@pytest.mark.parametrize('split', COUNTS)
def test_every_stored_value_is_that_of_the_tree(sample, data_dir, split):
  elements = opened(None, data_dir, split)
  lines = lines_of(sample, split)
  # Lists are followed, in their order: the official validation split, too.
  assert len(elements) == len(lines) == COUNTS[split]
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
    assert clips.numbers(element['frames'], path) == list(range(10))


def test_no_video_is_in_two_splits(data_dir):
  names = [clips.ids(opened(None, data_dir, split)) for split in COUNTS]
  assert sum(map(len, names)) == len(set().union(*names))


def test_class_numbers_are_those_of_the_lists_order(broken, tmp_path):
  assert len(set(tree.CLASSES)) == 28
  assert tree.CLASSES[6] == 'Helicopter' and tree.CLASSES[27] == 'Mandolin'
  for path in (broken / 'AVE').iterdir():
    # Of the sample's classes 0, 7, 18 and 26, in turn, leave one.
    if int(path.stem[7:]) % 4 != 1:
      path.unlink()
  elements = opened(broken, tmp_path / 'data')
  assert set(clips.labels(elements)) == {7}
  assert tree.CLASSES[7] == 'Violin, fiddle'


@pytest.mark.parametrize('name', ['audio', 'frames'])
def test_the_sample_can_be_learned_from_either_modality(data_dir, name):
  train, test = (opened(None, data_dir, part) for part in ('train', 'test'))
  assert clips.nearest_mean_accuracy(train, test, name) > 0.9


def test_the_sample_shows_its_events_in_their_seconds_only(data_dir):
  """Grey has no saturation; the colours of events have some."""
  for element in opened(None, data_dir, 'test'):
    colours = clips.decoded(element['frames']).mean((1, 2))
    is_event = np.ptp(colours, axis=1) > 40
    np.testing.assert_array_equal(is_event, element['segment_labels'] < 28)


def test_an_empty_event_is_kept_with_background_in_all_seconds(
  broken, tmp_path
):
  lines = lines_of(broken, 'train')
  category, video, *_ = lines[3].split('&')
  lines[3] = f'{category}&{video}&good&0&0'
  write(broken, 'train', lines)
  element = opened(broken, tmp_path / 'data')[3]
  assert element['segment_labels'].tolist() == [28] * 10
  assert tree.CLASSES[element['label']] == category


def test_the_first_line_of_a_video_counts_and_others_are_counted(
  broken, tmp_path
):
  lines = lines_of(broken, 'train')
  lines += [f'Banjo&{line.split("&")[1]}&good&0&10' for line in lines[2:5]]
  write(broken, 'train', lines)
  whole = opened(broken, tmp_path / 'data')
  assert len(whole) == COUNTS['train']
  assert tree.CLASSES.index('Banjo') not in clips.labels(whole)
  rows = _audit.table(tmp_path / 'data' / PREPARED, 'train')
  assert [row['reason'] for row in rows] == ['duplicate'] * 3
  assert [row['key'][:11] for row in rows] == [
    f'sample-{number:04d}' for number in (2, 3, 4)
  ]


def test_a_video_of_two_lists_stays_in_the_later_one(broken):
  def moved(split, count):
    return [
      f'Banjo&{line.split("&")[1]}&good&0&10'
      for line in lines_of(broken, split)[:count]
    ]

  validation, test = moved('validation', 2), moved('test', 3)
  write(broken, 'train', [*validation, *lines_of(broken, 'train'), *test])
  write(broken, 'validation', [*lines_of(broken, 'validation'), *test[:1]])
  parts = tree.splits(broken)
  reasons = {
    split: [getattr(item, 'reason', '') for item in items.values()]
    for split, items in parts.items()
  }
  other = 'in_other_split'
  assert reasons == {
    'train': [other] * 2 + [''] * 40 + [other] * 3,
    'validation': [''] * 10 + [other],
    'test': [''] * 10,
  }


def official(duplicates, with_validation, with_test):
  """Lists of the official size, with as many repeated videos as they have."""
  test = [f't{number}' for number in range(402)]
  validation = [f'v{number}' for number in range(401)]
  own = 3_312 - with_validation - with_test
  train = [f'a{number}' for number in range(own)]
  train += train[:duplicates]
  train += validation[:with_validation] + test[:with_test]
  return {'train': train, 'validation': [*validation, 'v7'], 'test': test}


def test_expected_counts_are_what_the_rules_leave_of_the_official_lists(
  tmp_path,
):
  """3,339, 402 and 402 lines; 3,312, 401 and 402 videos; 10 and 8 shared."""
  lists = official(duplicates=27, with_validation=10, with_test=8)
  for split, videos in lists.items():
    write(tmp_path, split, [f'Cat&{video}&good&0&9' for video in videos])
  assert {k: len(v) for k, v in lists.items()} == {
    'train': 3_339,
    'validation': 402,
    'test': 402,
  }
  parts = tree.splits(tmp_path)
  assert {
    split: sum(isinstance(item, tree.Event) for item in items.values())
    for split, items in parts.items()
  } == tree.EXPECTED
  assert len(parts['train']) == 3_339  # Nothing is silently lost.


@pytest.mark.parametrize(
  'header',
  ['Category&VideoID&Quality&StartTime&EndTime', '\ufeffevent&id&q&begin&end'],
)
def test_a_header_is_no_event(broken, header):
  lines = lines_of(broken, 'train')
  text = '\n'.join([header, *lines, ''])
  (broken / 'trainSet.txt').write_text(text, encoding='utf-8')
  items = tree.splits(broken)['train']
  assert list(items) == [line.split('&')[1] for line in lines]


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('Cat&0123456789a&good&0', 'expected <category>&<id>'),
    ('Cat, 0123456789a, good, 0, 10', 'expected <category>&<id>'),
    ('Cat&&good&0&10', 'expected <category>&<id>'),
    ('Dog&0123456789a&good&0&10', "'Dog' is none of the categories"),
    ('Violin&0123456789a&good&0&10', "'Violin' is none.*Violin, fiddle;"),
    ('Cat&0123456789a&good&0&11', 'start 0 and end 11'),
    ('Cat&0123456789a&good&5&4', 'start 5 and end 4'),
    ('Cat&0123456789a&good&-1&4', 'start -1 and end 4'),
    ('Cat&0123456789a&good&0.5&4', r'start 0\.5 and end 4'),
    ('Category&VideoID&Quality&StartTime&EndTime', "'Category' is none"),
  ],
)
def test_wrong_lines_of_the_lists_are_named(broken, line, message):
  write(broken, 'validation', [*lines_of(broken, 'validation'), line])
  with pytest.raises(ValueError, match=message) as caught:
    tree.splits(broken)
  assert f'{broken / "valSet.txt"}, line 11: ' in str(caught.value)


def test_an_empty_list_is_refused(broken):
  write(broken, 'test', [])
  with pytest.raises(ValueError, match=r'testSet\.txt has no line'):
    tree.splits(broken)


@pytest.mark.parametrize('name', ['trainSet.txt', 'valSet.txt', 'testSet.txt'])
def test_a_missing_list_shows_the_tree_and_what_was_found(
  broken, tmp_path, name
):
  (broken / name).unlink()
  with pytest.raises(FileNotFoundError) as caught:
    opened(broken, tmp_path / 'data')
  expected, found = str(caught.value).split('Found:')
  assert f'has no {name}' in expected and tree.TREE in expected
  assert 'AVE/sample-0000.mp4' in found


@pytest.mark.parametrize('missing', ['absent', 'empty'])
def test_a_wrong_folder_shows_the_tree_that_is_expected(tmp_path, missing):
  folder = tmp_path / missing
  if missing == 'empty':
    folder.mkdir()
  with pytest.raises(FileNotFoundError) as caught:
    opened(folder, tmp_path / 'data')
  assert str(folder) in str(caught.value) and tree.TREE in str(caught.value)


def test_the_folder_above_will_do(broken, tmp_path):
  (tmp_path / 'above').mkdir()
  broken.rename(tmp_path / 'above' / 'AVE_Dataset')
  elements = opened(tmp_path / 'above', tmp_path / 'data')
  assert len(elements) == COUNTS['train']


def test_what_cannot_be_read_is_counted_and_listed(broken, tmp_path):
  wanted = []
  for number, (damage, reason) in enumerate(clips.DAMAGES.values()):
    damage(broken / 'AVE' / f'sample-{2 * number:04d}.mp4')
    wanted.append((f'sample-{2 * number:04d}', reason))
  elements = opened(broken, tmp_path / 'data')
  rows = _audit.table(tmp_path / 'data' / PREPARED, 'train')
  assert [(row['key'], row['reason']) for row in rows] == wanted
  assert all(f'{row["key"]}.mp4' in row['detail'] for row in rows)
  assert len(elements) == COUNTS['train'] - len(wanted)
  assert _audit.table(tmp_path / 'data' / PREPARED, 'test') == []


def test_a_repaired_tree_prepares_all_videos(broken, sample, tmp_path):
  for path in (broken / 'AVE').iterdir():
    clips.write_pointer(path)
  with pytest.raises(ValueError, match=r'no item.*pointer of Git LFS'):
    opened(broken, tmp_path / 'data')
  shutil.copytree(sample, broken, dirs_exist_ok=True)
  assert len(opened(broken, tmp_path / 'data')) == COUNTS['train']


def test_the_builder_tells_citation_and_valid_tags(tmp_path):
  builder = ave_dataset_builder.Builder(data_dir=tmp_path)
  assert 'tian2018audio' in builder.info.citation
  assert builder.info.features['label'].names == list(tree.CLASSES)
  tags = builder.get_metadata().tags
  assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())


def test_the_readme_states_the_counts_of_the_code():
  readme = pathlib.Path(tree.__file__).with_name('README.md').read_text()
  for split, count in tree.EXPECTED.items():
    (row,) = (x for x in readme.splitlines() if x.startswith(f'| `{split}`'))
    assert row.split('|')[-2].strip() == f'{count:,}'
