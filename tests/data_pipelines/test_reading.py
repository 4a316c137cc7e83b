"""Skipping items, reading lists, and splits by the hash of a group."""

import codecs
import errno
import hashlib
import itertools
import logging
import os
import pathlib
import threading
import zlib

import av
import numpy as np
import PIL.Image
import pytest
import soundfile

from data_pipelines.reading import audit
from data_pipelines.reading import lists
from data_pipelines.reading import media
from data_pipelines.reading import pictures
from data_pipelines.reading import sounds
from data_pipelines.reading import splitting
from data_pipelines.reading import videos
from tests import clips

# Skipped items.


def read_or_skip(key, item):
  if item < 0:
    raise audit.SkipError('negative' if item > -9 else 'cold', f'{key}: {item}')
  return {'value': 10 * item}


def examples(folder, items, read=read_or_skip, split='train', expected=None):
  """Reads the examples of a toy data set."""
  return audit.examples(audit.Part(items, read, expected), 'toy', split, folder)


def test_items_keep_their_order_and_skipped_ones_are_listed(tmp_path, caplog):
  items = {f'k{number}': number for number in range(200)}
  items.update(k3=-1, k50=-20)
  items['k199'] = audit.SkipError(
    'negative', 'k199: -2'
  )  # known before reading
  actual = list(examples(tmp_path, items, expected=201))
  kept = [number for number in range(199) if number not in (3, 50)]
  assert actual == [
    (number, {'value': 10 * item}) for number, item in enumerate(kept)
  ]
  assert clips.table(tmp_path, 'train') == [
    {'key': 'k3', 'reason': 'negative', 'detail': 'k3: -1'},
    {'key': 'k50', 'reason': 'cold', 'detail': 'k50: -20'},
    {'key': 'k199', 'reason': 'negative', 'detail': 'k199: -2'},
  ]
  (record,) = caplog.records
  assert record.levelname == 'WARNING'
  assert record.getMessage() == (
    "toy: the split 'train' has 197 items; the published one has 201. Skipped:"
    ' 1 cold, 2 negative; skipped-train.csv in the prepared folder lists them.'
  )


@pytest.mark.parametrize(
  ('expected', 'level'), [(None, 'INFO'), (2, 'INFO'), (3, 'WARNING')]
)
def test_a_warning_is_logged_only_if_a_split_is_incomplete(
  tmp_path, caplog, expected, level
):
  caplog.set_level(logging.INFO)
  list(examples(tmp_path, {'a': 1, 'b': 2}, expected=expected))
  assert [record.levelname for record in caplog.records] == [level]


def test_results_come_in_order_whichever_is_ready_first(tmp_path, monkeypatch):
  """The first item finishes last, but comes first."""
  monkeypatch.setattr('os.cpu_count', lambda: 2)
  others = threading.Event()

  def read(key, _):
    if key == 'first':
      assert others.wait(20)
    else:
      others.set()
    return {'key': key}

  items = dict.fromkeys(['first', 'second', 'third'])
  found = list(examples(tmp_path, items, read))
  assert [each['key'] for _, each in found] == list(items)


@pytest.mark.parametrize('error', [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_error_few_more_items_are_begun(tmp_path, error):
  begun = []

  def read(key, item):
    begun.append(key)
    if item == 2:
      raise error
    return {'value': item}

  items = {f'k{number}': number for number in range(5000)}
  with pytest.raises(error):
    list(examples(tmp_path, items, read))
  assert len(begun) < 1000
  assert not (tmp_path / 'skipped-train.csv').exists()


def test_a_split_without_a_readable_item_is_an_error(tmp_path):
  with pytest.raises(ValueError, match=r"toy: .*'test'.*of 2 .*first: b: -3"):
    list(examples(tmp_path, {'b': -3, 'a': -4}, split='test'))
  # The list of skipped items is still written.
  assert [row['key'] for row in clips.table(tmp_path, 'test')] == ['b', 'a']
  with pytest.raises(
    ValueError, match=r"'test'.* of 0 that were looked for\.$"
  ):
    list(examples(tmp_path, {}, split='test'))


def test_details_may_have_commas_quotes_line_breaks_and_invalid_text(
  tmp_path,
):
  path = os.fsdecode(b'caf\xe9/a.wav')

  def read(_, item):
    if item:
      raise audit.SkipError('odd', item)
    return {}

  items = {'w': 0, 'x': 'a, "b"\nc;é', 'y': path}
  assert len(list(examples(tmp_path, items, read))) == 1
  told = [row['detail'] for row in clips.table(tmp_path, 'train')]
  assert told == ['a, "b"\nc;é', r'caf\udce9/a.wav']


# Decoders and lists.


def test_damage_skips_the_file_but_other_faults_do_not():
  path = pathlib.Path('a.mp4')
  for error in (
    ValueError('odd'),
    UnicodeDecodeError('utf-8', b'\xe9', 0, 1, 'odd'),
    MemoryError(),
    RuntimeError('odd'),
    SyntaxError('odd'),
    IndexError('odd'),
    ZeroDivisionError('odd'),
    zlib.error('odd'),
    OSError('odd'),
    soundfile.LibsndfileError(1, 'odd: '),
  ):
    with pytest.raises(audit.SkipError) as caught, media.decoding(path):
      raise error
    assert caught.value.reason == 'corrupt'
    assert caught.value.detail.startswith('a.mp4: ')
    assert 'odd' in caught.value.detail or type(error) is MemoryError
  for error in (
    OSError(errno.ENOSPC, 'no space'),
    PermissionError(errno.EACCES, 'not allowed'),
    KeyboardInterrupt(),
    audit.SkipError('no_audio', 'it is silent'),
    # What a new release of a decoder would raise, called as the old one.
    TypeError('no such argument'),
    AttributeError('no such method'),
    ImportError('no such module'),
    NotImplementedError('no more'),
  ):
    with pytest.raises(type(error)) as caught, media.decoding(path):
      raise error
    assert caught.value is error
  with pytest.raises(audit.SkipError), media.decoding(path, TypeError):
    np.asarray({}, np.float32)


def test_a_decoder_of_another_release_ends_the_preparation(
  tmp_path, monkeypatch
):
  """As PyAV 19, of which all videos were told to be corrupt."""
  clips.record(tmp_path)
  PIL.Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
  soundfile.write(tmp_path / 'a.wav', np.zeros(80), 16_000)

  def changed(*_, **options):
    raise TypeError(f'unexpected keywords {sorted(options)}')

  for library, name, read, path in (
    (av, 'open', videos.read_sound, 'clip.mp4'),
    (soundfile, 'SoundFile', sounds.read, 'a.wav'),
    (PIL.Image, 'open', pictures.read, 'a.png'),
  ):
    read(tmp_path / path)
    with monkeypatch.context() as patch:
      patch.setattr(library, name, changed)
      with pytest.raises(TypeError, match='unexpected keywords'):
        read(tmp_path / path)


def test_a_split_of_which_the_first_hundred_are_corrupt_is_given_up(tmp_path):
  def read(reason, place):
    if place < 150:
      raise audit.SkipError(reason, f'{place}')
    return {'place': place}

  items = {f'{place:03}': place for place in range(5_000)}
  match = r'of 100 that were looked for\. .*first: 0$'
  with pytest.raises(ValueError, match=match):
    list(examples(tmp_path, items, lambda _, place: read('corrupt', place)))
  found = list(
    examples(tmp_path, items, lambda _, place: read('missing', place))
  )
  assert len(found) == 4_850


def test_lists_are_read_in_the_encoding_of_their_byte_order_mark(tmp_path):
  path = tmp_path / 'list.csv'
  text = 'Café,1\r\n\r\n "a, b" , 2 \r\n'
  for encoding in ('utf-8', 'utf-8-sig', 'utf-16', 'utf-32'):
    path.write_bytes(text.encode(encoding))
    assert list(lists.rows(path)) == [
      (f'{path}, line 1', ['Café', '1']),
      (f'{path}, line 3', ['a, b', '2']),
    ]
  path.write_bytes(codecs.BOM_UTF16_BE + text.encode('utf-16-be'))
  assert len(list(lists.rows(path))) == 2


def test_errors_name_lists_in_another_encoding(tmp_path):
  path = tmp_path / 'list.csv'
  for content in (
    'Café,1\n'.encode('latin-1'),
    'Cafe,1\n'.encode('utf-16-le'),
    codecs.BOM_UTF16_LE + b'a',
    b'\xff\xfe\x00\xd8',
  ):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'list\.csv .*Save it in UTF-8'):
      list(lists.rows(path))


def test_columns_are_found_by_their_names(tmp_path):
  path = tmp_path / 'list.csv'
  path.write_text('\ufeffID, Start ,label\na,1,"x, y"\n\nb\n', 'utf-8')
  assert list(lists.records(path, ['label', 'id'])) == [
    (f'{path}, line 2', ['x, y', 'a']),
    (f'{path}, line 4', ['', 'b']),
  ]
  with pytest.raises(ValueError, match=r"columns .*'label'.*expected id, end"):
    list(lists.records(path, ['id', 'end']))


# Splits by the hash of a group.


@pytest.mark.quick
def test_the_hash_of_a_group_never_changes():
  # The examples of the standard, FIPS 180, and a letter of two bytes.
  bits_of_e = int(hashlib.sha256(b'\xc3\xa9').hexdigest()[:8], 16)
  for group, bits in (('', 0xE3B0C442), ('abc', 0xBA7816BF), ('é', bits_of_e)):
    assert splitting.share(group) == bits / 2**32


def groups_of(count):
  return {f'item {i}': f'group {i // 3}' for i in range(count)}


@pytest.mark.quick
def test_no_group_is_in_two_parts_and_no_item_is_lost():
  groups = groups_of(3000)
  parts = splitting.split(groups, {'validation': 0.1, 'test': 0.25})
  assert list(parts) == ['train', 'validation', 'test']
  assert sorted(itertools.chain(*parts.values())) == sorted(groups)
  owners = {
    name: {groups[item] for item in items} for name, items in parts.items()
  }
  assert sum(len(each) for each in owners.values()) == len(
    set.union(*owners.values())
  )
  sizes = {name: len(each) / 1000 for name, each in owners.items()}
  expected = {'train': 0.65, 'validation': 0.1, 'test': 0.25}
  assert sizes == pytest.approx(expected, abs=0.05)
  for items in parts.values():
    assert items == [item for item in groups if item in set(items)]


@pytest.mark.quick
def test_missing_items_move_no_others():
  parts = {'validation': 0.2, 'test': 0.2}
  groups = groups_of(300)
  whole = splitting.split(groups, parts)
  fewer = {item: groups[item] for item in list(groups)[::-2]}
  for name, items in splitting.split(fewer, parts).items():
    assert items and set(items) <= set(whole[name])


@pytest.mark.quick
def test_a_part_is_the_same_whatever_parts_come_after_it():
  groups = groups_of(900)
  one = splitting.split(groups, {'validation': 0.1})
  two = splitting.split(groups, {'validation': 0.1, 'test': 0.1})
  assert one['validation'] == two['validation']
  assert set(two['train']) | set(two['test']) == set(one['train'])


def test_another_salt_gives_other_parts():
  groups = groups_of(900)
  salted = splitting.split(groups, {'test': 0.5}, 'x')
  assert salted != splitting.split(groups, {'test': 0.5})
  renamed = {item: f'x{group}' for item, group in groups.items()}
  assert salted == splitting.split(renamed, {'test': 0.5})
