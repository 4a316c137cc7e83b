"""Kinetics-Sounds: lists and media as users have them, whole and broken."""

import collections
import functools
import shutil

import numpy as np
import pytest

from data_pipelines.kinetics_sounds import tree
from data_pipelines.reading import manual
from data_pipelines.reading import youtube
from data_pipelines.samples import tiny
from tests import clips

COUNTS = {'train': 47, 'validation': 9, 'test': 16}
NAME = 'kinetics_sounds'

opened = functools.partial(clips.opened, NAME)


@pytest.fixture
def listed(sample):
  """Reads split -> (id, start) -> class from the lists, without our code."""
  rows = {}
  for part in ('train', 'test'):
    rows[part] = {}
    for line in (sample / f'my_{part}.txt').read_text().split():
      name, _, label = line.split(',')
      rows[part][name[:11], int(name[12:].split('_')[0])] = int(label)
  return rows


def test_stored_values_are_those_of_the_tree(sample, stored, listed):
  for split in COUNTS:
    for element in stored('kinetics_sounds', split):
      name = element['clip_id'].item().decode()
      clip = name[:11], int(name[12:])
      part = 'test' if split == 'test' else 'train'
      assert element['label'] == listed[part][clip]
      assert element['label'].dtype == np.int64
      (path,) = (sample / 'train').glob(f'{name}_*.mp4')
      np.testing.assert_array_equal(element['audio'], clips.waveform(path))
      assert element['audio'].dtype == np.int16
      if clip[1] % 3:
        continue  # A third of the pictures are enough.
      numbers = clips.numbers(element['frames'], path)
      count = len(clips.pictures(path))
      # At five frames a second, 0.5, 1.5, 2.5 s are frames 2, 7 and 12.
      first = [place for place in (2, 7, 12) if place < count]
      assert numbers[: len(first)] == first and len(numbers) == 10
      # Places past the end of a short video are in its last second.
      assert min(numbers[len(first) :]) >= (count - 1) // 5 * 5


def test_two_clips_of_one_video_are_never_in_two_splits(broken):
  lines = (broken / 'my_train.txt').read_text().split()
  again = [f'{line[:11]}_777,10,3' for line in lines]
  (broken / 'my_train.txt').write_text('\n'.join([*lines, *again]))
  videos = {
    split: collections.Counter(key[:11] for key in part.items)
    for split, part in tree.parts(broken).items()
  }
  assert not videos['train'].keys() & videos['validation'].keys()
  assert set(videos['validation'].values()) == {2}


def test_class_numbers_are_alphabetical():
  assert len(tree.CLASSES) == 31 and list(tree.CLASSES) == sorted(tree.CLASSES)
  assert tree.CLASSES[17] == 'playing_saxophone'


def test_all_spellings_of_a_clip_are_recognised_and_nothing_else():
  for end in ('_30', '_000030', '_000030_000040', '_30_40'):
    assert youtube.clip(f'0_2-4567_9a{end}') == ('0_2-4567_9a', 30)
  for name in ('0123456789_30', '0123456789ab', 'a b_3', '', '../456789a_3'):
    with pytest.raises(ValueError, match='is no name of a clip'):
      youtube.clip(name)


def annotations(split, without=''):
  """Makes annotations: all 31 classes, and another class of Kinetics."""
  rows = [
    f'"{label.replace("_", " ")}",{split[0]}-{n:09d},{n},{n + 10},{split}'
    for n, label in enumerate([*tree.CLASSES, 'abseiling'])
    if label != without
  ]
  return '\n'.join(['label,youtube_id,time_start,time_end,split', *rows])


@pytest.mark.parametrize('names', ['validate', 'val', 'annotations/val'])
def test_without_the_lists_the_annotations_of_kinetics_are_used(
  tmp_path, names, caplog
):
  folder = (tmp_path / names).parent
  folder.mkdir(exist_ok=True)
  (folder / 'train.csv').write_text(annotations('train'))
  test = '\ufeff' + annotations('val')
  (tmp_path / f'{names}.csv').write_text(test, encoding='utf-8')
  parts = tree.parts(tmp_path)
  train = {**parts['train'].items, **parts['validation'].items}
  for items, letter in ((train, 't'), (parts['test'].items, 'v')):
    assert {key: item.label for key, item in items.items()} == {
      f'{letter}-{number:09d}_{number:06d}': number for number in range(31)
    }
  assert {part.expected for part in parts.values()} == {None}
  assert not caplog.records


def test_a_warning_names_classes_missing_from_annotations(tmp_path, caplog):
  (tmp_path / 'train.csv').write_text(annotations('train', 'bowling'))
  (tmp_path / 'val.csv').write_text(annotations('val'))
  parts = tree.parts(tmp_path)
  assert len(parts['train'].items) + len(parts['validation'].items) == 30
  assert 'train.csv has no row of the classes bowling' in caplog.text


def test_wrong_annotations_are_refused(tmp_path):
  (tmp_path / 'val.csv').write_text(annotations('val'))
  path = tmp_path / 'train.csv'
  header = 'label,youtube_id,time_start'
  for text, message in (
    ('label,youtube_id\nsinging,0123456789a', "'youtube_id'.*time_start"),
    ('', r'columns \[\]'),
    (f'{header}\nsinging,0123456789a,x', 'line 2.*_x'),
    (f'{header}\nsinging,0123456789a', 'line 2.*0123'),
    (f'{header}\nabseiling,0123456789a,3', 'no row of the'),
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match=f'{path}.*{message}'):
      tree.parts(tmp_path)


def test_errors_name_wrong_lines_of_the_lists(broken):
  path = broken / 'my_train.txt'
  whole = path.read_text()
  for line in (
    '0123456789a_30,10,31',
    '0123456789a_30,10,-1',
    '0123456789a_30,10,singing',
    '0123456789a_30,25,10',
    '0123456789a_30,10',
    '0123456789_30,10,3',
  ):
    path.write_text('\ufeff' + whole + line, encoding='utf-8')
    where = f'{path}, line 57: .*{line[:9]}'
    with pytest.raises(ValueError, match=where):
      tree.parts(broken)
  path.write_text('\n')
  with pytest.raises(ValueError, match=r'my_train\.txt has no row'):
    tree.parts(broken)


def test_one_list_or_none_is_not_enough(broken):
  for left, gone in (('train', 'test'), ('test', 'train')):
    moved = (broken / f'my_{gone}.txt').rename(broken / 'moved')
    with pytest.raises(FileNotFoundError, match=rf'only my_{left}\.txt'):
      tree.parts(broken)
    moved.rename(broken / f'my_{gone}.txt')
  for path in broken.glob('*.txt'):
    path.unlink()
  with pytest.raises(FileNotFoundError, match=r'none of the two') as caught:
    tree.parts(broken)
  for part in (str(broken), tree.TREE, 'Found:', 'train/kinetic0000_000005'):
    assert part in str(caught.value)


def test_lists_without_media_are_refused(broken, tmp_path):
  shutil.rmtree(broken / 'train')
  with pytest.raises(ValueError, match=r'no item.*has no video kinetic'):
    opened(broken, tmp_path / 'data')


def test_extracted_sounds_and_pictures_are_read_in_place_of_videos(broken):
  random = np.random.RandomState(1)
  audio, visual = broken / 'audio', broken / 'visual'
  shutil.rmtree(broken / 'train')
  for number in (1, 2, 3, 5, 8, 9, 10):
    name = f'kinetic{number:04d}_{number + 5}'  # spelled as in the test list
    sound = random.uniform(-1, 1, 4_000).astype(np.float32)
    tiny.write_wav(audio / f'{name}.wav', sound)
    for place in range(1, 11):
      picture = random.randint(0, 255, (8, 12, 3)).astype(np.uint8)
      clips.write_jpeg(visual / name / f'frame_{place:05d}.jpg', picture)
  # macOS writes such files on disks of other systems.
  folder = visual / 'kinetic0001_6'
  (folder / '._frame_00001.jpg').write_bytes(b'\0')
  (audio / '._kinetic0001_6.wav').write_bytes(b'\0')
  clips.truncate(audio / 'kinetic0002_7.wav')
  tiny.write_wav(audio / 'kinetic0003_8.wav', np.zeros(0, np.float32))
  (audio / 'kinetic0005_10.wav').unlink()
  clips.truncate(visual / 'kinetic0010_15' / 'frame_00002.jpg')
  shutil.rmtree(visual / 'kinetic0008_13')
  for path in sorted((visual / 'kinetic0009_14').iterdir())[3:]:
    path.unlink()
  part = clips.parts(NAME, broken)['train']
  element = part.read('', part.items['kinetic0001_000006'])
  assert element['clip_id'] == 'kinetic0001_000006'
  wav = (audio / 'kinetic0001_6.wav').read_bytes()
  np.testing.assert_array_equal(
    element['audio'], np.frombuffer(wav[44:], np.int16)
  )
  paths = [folder / f'frame_{place:05d}.jpg' for place in range(1, 11)]
  assert element['frames'] == [path.read_bytes() for path in paths]
  for reason, numbers in {
    'corrupt': (2, 10),
    'too_short': (3, 9),
    'missing': (5, 8),
  }.items():
    for number in numbers:
      item = part.items[f'kinetic{number:04d}_{number + 5:06d}']
      assert clips.reason(part.read, '', item)[0] == reason, number


def test_folders_behind_links_are_visited_once(tmp_path):
  disk, root = tmp_path / 'disk', tmp_path / 'root'
  for one in 'abc':
    (disk / one).mkdir(parents=True)
    (disk / one / f'kinetic000{ord(one) % 8}_1.mp4').write_bytes(b'x')
    for other in 'abc':
      (disk / one / f'to_{other}').symlink_to(disk / other)
  root.mkdir()
  (root / 'clips').symlink_to(disk)
  assert len(list(manual.walk(root))) == 5  # the three, and two above them
  found = youtube.find(root).videos.values()
  assert len(found) == 3 and all(path.is_file() for path in found)


def test_files_are_found_whatever_the_case_of_their_suffix(tmp_path):
  for name in ('kinetic0001_1.MP4', 'kinetic0002_1.mp4', 'kinetic0003_1.WAV'):
    (tmp_path / name).write_bytes(b'x')
  (tmp_path / 'kinetic0004_1.Mp4').mkdir()
  found = youtube.find(tmp_path)
  assert [clip.video for clip in found.videos] == ['kinetic0001', 'kinetic0002']
  assert [clip.video for clip in found.sounds] == ['kinetic0003']
  assert [clip.video for clip in found.pictures] == ['kinetic0004']


def test_an_empty_copy_of_a_file_is_passed_over(tmp_path):
  contents = {'a': b'', 'b': clips.POINTER, 'c': b'whole', 'd': b'later'}
  for folder, content in contents.items():
    (tmp_path / folder / 'kinetic0001_1').mkdir(parents=True)
    (tmp_path / folder / 'kinetic0001_1.mp4').write_bytes(content)
  (tmp_path / '0').mkdir()
  (tmp_path / '0' / 'kinetic0001_1.mp4').symlink_to(tmp_path / 'nowhere')
  folder = tmp_path / 'b' / 'kinetic0001_1'
  clips.write_jpeg(folder / '1.jpg', np.zeros((8, 8, 3), np.uint8))
  found = youtube.find(tmp_path)
  assert [*found.videos.values()] == [tmp_path / 'c' / 'kinetic0001_1.mp4']
  assert [*found.pictures.values()] == [folder]


def test_an_empty_sound_or_video_is_replaced_by_other_files_of_the_clip(
  broken, stored
):
  train = clips.ids(stored('kinetics_sounds'))
  without_sound, without_video = train[:2]
  (broken / f'{without_sound}.wav').write_bytes(b'')
  (video,) = broken.rglob(f'{without_video}*.mp4')
  clips.write_pointer(video)
  tiny.write_wav(broken / f'{without_video}.wav', np.zeros(99, np.float32))
  picture = np.zeros((8, 8, 3), np.uint8)
  for number in range(4):
    clips.write_jpeg(broken / without_video / f'{number}.jpg', picture)
  part = clips.parts(NAME, broken)['train']
  one, two = (part.read(key, part.items[key]) for key in train[:2])
  np.testing.assert_array_equal(
    one['audio'], stored('kinetics_sounds')[0]['audio']
  )
  assert len(two['audio']) == 99 and len(two['frames']) == 4


def test_a_video_of_ten_seconds_gives_a_frame_in_the_middle_of_each(broken):
  (path,) = (broken / 'train').glob('kinetic0001_*')
  random = np.random.RandomState(2)
  tiny.write_video(
    path,
    list(random.randint(0, 255, (120, 32, 48, 3)).astype(np.uint8)),
    12,
    random.uniform(-0.5, 0.5, 16_000).astype(np.float32),
  )
  part = clips.parts(NAME, broken)['train']
  element = part.read('', part.items['kinetic0001_000006'])
  assert clips.numbers(element['frames'], path) == list(range(6, 120, 12))
