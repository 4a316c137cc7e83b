"""A user's own folder: its CSV, and what is read from its files."""

import collections
import fractions
import itertools

import numpy as np
import PIL.Image
import pytest
import soundfile

from data_pipelines import folders
from data_pipelines import own_splits
from data_pipelines import redrawing
from data_pipelines import views
from data_pipelines.reading import folder_builder
from data_pipelines.reading import pictures
from data_pipelines.samples import tiny
from tests import clips

ROWS = 20
HEADER = 'photo,voice,caption,label'
SPLITS = ('train', 'train', 'validation', 'test')
SOUNDS = (
  views.FilterBank,
  views.Psd3s,
  views.Psd10s,
  views.Stft3s,
  views.Stft5s,
)


def write_list(root, header=HEADER, lines=None, name='list.csv'):
  rows = lines or [
    f'files/{i}.png,files/{i}.wav,"Number {i}, {"odd" if i % 2 else "even"}",'
    f'{"bee" if i % 2 else "ant"}'
    for i in range(ROWS)
  ]
  root.mkdir(exist_ok=True)
  (root / name).write_text('\n'.join([header, *rows]))
  return root


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Pictures as bright as their row's number, and tones; two are damaged."""
  root = write_list(tmp_path_factory.mktemp('folders') / 'my set')
  (root / 'files').mkdir()
  for i in range(ROWS):
    grey = np.full((4, 6, 3), i, np.uint8)
    PIL.Image.fromarray(grey).save(root / f'files/{i}.png')
    soundfile.write(root / f'files/{i}.wav', np.full(80, i / 50), 16_000)
  (root / 'files/3.png').write_bytes(b'no picture')
  (root / 'files/8.wav').unlink()
  return root


@pytest.fixture(scope='module')
def data_dir(folder, tmp_path_factory):
  where = tmp_path_factory.mktemp('prepared')
  clips.opened('folder', None, where, config=folder)
  return where


def elements_of(root, data_dir):
  """Row -> element, of all splits."""
  elements = [
    element
    for split in own_splits.SPLITS
    for element in clips.opened('folder', None, data_dir, split, str(root))
  ]
  found = {int(element['row']): element for element in elements}
  assert len(found) == len(elements)
  return found


def test_every_row_is_in_one_split_with_all_its_entries(folder, data_dir):
  found = elements_of(folder, data_dir)
  for row, element in found.items():
    (photo,) = clips.decoded(element['photo'])
    assert photo[0, 0, 0] == row
    np.testing.assert_allclose(
      element['voice'], np.round(row / 50 * 2**15), atol=1
    )
    assert element['caption'].item().decode().startswith(f'Number {row}, ')
    assert element['label'] == row % 2
  assert sorted(found) == [i for i in range(ROWS) if i not in (3, 8)]
  sizes = collections.Counter(folders.read(folder).split.tolist())
  assert sizes == {'train': 12, 'validation': 4, 'test': 4}


def test_paths_may_be_absolute_or_lead_out_of_the_folder(folder):
  lines = [f'../{folder.name}/files/5.png', f'{folder}/files/6.png']
  beside = write_list(folder.parent / 'beside', 'photo', lines)
  photos = [row['photo'] for row in folder_builder.elements(beside, ('photo',))]
  assert [clips.decoded(each)[0][0, 0, 0] for each in photos] == [5, 6]


def test_unreadable_items_are_listed_with_line_and_column(data_dir):
  prepared = next(data_dir.glob('folder/my_set-*/*'))
  skipped = [
    row for split in own_splits.SPLITS for row in clips.table(prepared, split)
  ]
  assert {row['key'].split(', ')[-1]: row['reason'] for row in skipped} == {
    'line 5': 'corrupt',
    'line 10': 'missing',
  }
  details = ' '.join(row['detail'] for row in skipped)
  assert "column 'photo': " in details and "column 'voice': " in details


def test_a_changed_folder_is_prepared_again(folder):
  before = folder_builder.folder(folder).name
  assert folder_builder.folder(folder).name == before
  path = folder / 'files/0.png'
  kept = path.read_bytes()
  path.write_bytes(kept + b' ')
  assert folder_builder.folder(folder).name != before
  path.write_bytes(kept)


def test_its_splits_can_be_redrawn(folder, data_dir):
  drawn = redrawing.splits('folder', config=folder, seed=1, data_dir=data_dir)
  rows = [int(row['row']) for part in drawn.values() for row in part]
  assert sorted(rows) == [i for i in range(ROWS) if i not in (3, 8)]


def test_columns_split_and_group_are_used(tmp_path):
  splits = own_splits.SPLITS
  lines = [f'w{i},{10 - i},{splits[i % 3]},{i % 3}' for i in range(9)]
  table = folders.read(
    write_list(tmp_path / 'a', 'note,label,split,group', lines)
  )
  assert table.split.tolist() == [splits[i % 3] for i in range(9)]
  assert table.group.tolist() == [i % 3 for i in range(9)]
  assert table.target.classes == tuple(map(str, range(2, 11)))  # not as texts
  names = ('-3', '2', '10', 'ant', 'nan')  # NaN cannot be sorted among numbers
  lines = [f'{i},w{i},{names[i % 5]}' for i in range(25)]
  table = folders.read(write_list(tmp_path / 'c', 'row,note,label', lines))
  assert table.target.classes == names
  assert table.kinds == {'note': 'text'}  # as of arrays, a row is no modality
  lines = [f'w{i},{i % 2},{i // 4}' for i in range(32)]
  table = folders.read(write_list(tmp_path / 'b', 'note,label,group', lines))
  assert all(len(set(table.split[table.group == g])) == 1 for g in range(8))


def test_videos_give_frames_but_in_a_column_audio_their_sound(tmp_path):
  shown = [np.full((48, 64, 3), level, np.uint8) for level in clips.LEVELS]
  tone = clips.sine(1000, 3, 16_000).astype(np.float32)
  tiny.write_video(tmp_path / 'a.mp4', shown, fractions.Fraction(10), tone)
  lines = ['a.mp4,a.mp4'] * 2
  write_list(tmp_path, 'audio,film', lines)
  first, _ = folder_builder.elements(tmp_path, ('audio', 'film', 'other'))
  assert first['film'].shape == (3,) and first['film'].dtype == object
  assert abs(len(first['audio']) - 3 * 16_000) < 3_000
  assert first['audio'].dtype == np.int16
  (tmp_path / 'a.mp4').rename(tmp_path / 'a.m4a')  # as phones record voices
  write_list(tmp_path, 'voice', ['a.m4a'])
  (voice,) = folder_builder.elements(tmp_path, ('voice',))
  np.testing.assert_array_equal(voice['voice'], first['audio'])


def test_pictures_in_a_column_audio_are_pictures(tmp_path):
  lines = [f'{i}.png,{i % 2}' for i in range(20)]  # of spectrograms
  table = folders.read(write_list(tmp_path, 'audio,label', lines))
  assert table.kinds == {'audio': 'picture'}


def test_new_rows_need_no_label_and_damaged_ones_are_errors(folder, tmp_path):
  found = folder_builder.elements(
    write_list(tmp_path / 'a', 'caption,photo', ['A dog,', ',']),
    ('caption', 'photo'),
  )
  assert found == [{'caption': 'A dog'}, {}]
  path = folder / 'new.csv'
  path.write_text(f'photo\nfiles/1.png\n{folder}/files/3.png')
  with pytest.raises(ValueError, match=r"new.csv, line 3, column 'photo': .*3"):
    folder_builder.elements(path, ('photo',))
  with pytest.raises(ValueError, match=r"'photo'\]; expected some of \['who'"):
    folder_builder.elements(path, ('who',))
  path.unlink()
  with pytest.raises(FileNotFoundError, match=r'no .*new\.csv\. Expected'):
    folder_builder.elements(path, ('photo',))


def test_numbers_are_read_to_the_bit_and_are_one_modality(tmp_path):
  random = np.random.RandomState(0)
  values = random.normal(1e6, 1, (ROWS, 3))
  cells = [[f'{value!r}' for value in row] for row in values.tolist()]
  cells[4][1], cells[9] = '', ['', cells[9][1], 'nan']
  lines = [f'w{i},{",".join(cells[i])},{"ab"[i % 2]}' for i in range(ROWS)]
  header = 'note,age,eye.left,weight,label'
  root = write_list(tmp_path / 'a', header, lines)
  table = folders.read(root)
  assert table.modalities == {
    'note': ('note',),
    'numbers': ('age', 'weight'),
    'eye': ('eye.left',),
  }
  values[4, 1], values[9, [0, 2]] = 0, 0  # where a row lacks a modality
  expected = np.where(np.arange(ROWS) == 9, np.nan, values[:, 2])
  np.testing.assert_array_equal(table.numbers('weight'), expected)
  found = elements_of(root, tmp_path / 'made')
  for row in range(ROWS):
    names = ('age', 'eye.left', 'weight')
    numbers = [found[row][name].item() for name in names]
    assert numbers == values[row].tolist()
    assert found[row]['eye_present'] == (row != 4)
    assert found[row]['numbers_present'] == (row != 9)


def test_a_row_without_a_label_may_have_some_numbers_of_a_modality(tmp_path):
  lines = [f'{i},{i},{i % 2}' for i in range(ROWS)] + ['3,,', 'nan,4,']
  root = write_list(tmp_path / 'a', 'age,weight,label', lines)
  assert not folders.read(root).present


def test_numbers_of_new_rows_may_lack_and_are_no_words(tmp_path):
  lines = ['1.5,7,b', ',9,c', 'nan,8,']
  root = write_list(tmp_path / 'a', 'age,note,other', lines)
  found = folder_builder.elements(root, ('age', 'note'), numbers=('age',))
  assert found == [{'age': 1.5, 'note': '7'}, {'note': '9'}, {'note': '8'}]
  root = write_list(tmp_path / 'b', 'age', ['1.5', 'old'])
  with pytest.raises(ValueError, match=r"line 3, column 'age': 'old'; expecte"):
    folder_builder.elements(root, ('age',), numbers=('age',))


def test_rows_lack_what_is_empty_and_views_read_what_stands_there(
  folder, tmp_path
):
  files = [f'{folder}/files/{i}' for i in (1, 2, 4, 5)]
  lines = [f'{files[0]}.png,{files[i % 4]}.wav,so,3' for i in range(5)]
  lines += [f'{name}.png,,,' for name in files]
  lines += [f',{name}.wav,,' for name in files] + [',,so,3'] * 7
  lines = [f'{line},{i % 2}' for i, line in enumerate(lines)]
  header = 'photo,voice,caption,age,label'
  root = str(write_list(tmp_path / 'a', header, lines))
  here = {
    'photo': [True] * 9 + [False] * 11,
    'voice': [True] * 5 + [False] * 4 + [True] * 4 + [False] * 7,
    'caption': [True] * 5 + [False] * 8 + [True] * 7,
  }
  here['numbers'] = here['caption']
  table = folders.read(root)
  assert {k: rows.tolist() for k, rows in table.present.items()} == here
  elements = elements_of(root, tmp_path / 'made')
  assert sorted(elements) == list(range(ROWS))
  seen = [
    views.Frames(1, 'first', 8, source='photo'),
    views.Frames(3, 'ends', 8, evaluation='center_crop', source='photo'),
    *(view('voice') for view in SOUNDS),
    views.HashedWords('caption', 8),
    views.Numbers(('age',), mean=(3,), std=(2,)),
  ]
  for row in (5, 9, 13):
    for name, rows in here.items():
      assert elements[row][f'{name}_present'] == rows[row]
    for view, random in itertools.product(seen, (None, 0)):
      drawn = None if random is None else np.random.default_rng(random)
      made, like = (view(elements[i], drawn) for i in (row, 0))
      assert made.shape == like.shape and made.dtype == like.dtype
      assert np.isfinite(made).all()


def test_a_modality_of_damaged_files_alone_ends_the_preparation(tmp_path):
  splits = own_splits.SPLITS
  lines = [f'{i}.png,so,{splits[i // 2]},{i % 2}' for i in range(6)]
  lines += [f',so,{split},0' for split in splits]
  root = write_list(tmp_path / 'a', 'photo,note,split,label', lines)
  for i in range(6):
    (root / f'{i}.png').write_bytes(b'no picture')
  with pytest.raises(
    ValueError, match=r"none of the rows of train that have \['photo'\] can be"
  ):
    clips.opened('folder', None, tmp_path / 'made', config=str(root))


def test_all_files_of_an_ending_that_are_damaged_end_the_preparation(tmp_path):
  grey = np.zeros((4, 6, 3), np.uint8)
  splits = ['train'] * 12 + ['validation'] * 4 + ['test'] * 4
  ends = ['png', 'webp'] * 10
  lines = [f'{i}.{ends[i]},{splits[i]},{i % 3}' for i in range(20)]
  root = write_list(tmp_path / 'a', 'photo,split,label', lines)
  for i in range(20):
    if i % 2 and i != 1:
      (root / f'{i}.webp').write_bytes(b'no picture')
    else:
      PIL.Image.fromarray(grey).save(root / f'{i}.{ends[i]}')

  def opened():
    return clips.opened('folder', None, tmp_path / 'made', config=str(root))

  assert len(opened()) == 7  # one of six could be read
  (root / '1.webp').write_bytes(b'no picture')
  with pytest.raises(
    ValueError, match=r"'photo': none of 6 files that end in '.webp'.*line 3"
  ):
    opened()
  (root / '1.webp').unlink()  # a missing file, which the reader cannot help
  assert len(opened()) == 6


def test_pictures_are_upright_and_no_larger_than_needed(tmp_path):
  deep = np.full((1536, 1024), 150 * 256, np.uint16)
  PIL.Image.fromarray(deep).save(tmp_path / 'b.png')
  small = pictures._pictures.opened(pictures.read(tmp_path / 'b.png'))
  assert small.size == (512, 768) and small.getpixel((9, 9)) == (150,) * 3
  PIL.Image.new('RGB', (512, 900)).save(tmp_path / 'c.png')
  data = (tmp_path / 'c.png').read_bytes()
  assert pictures.read(tmp_path / 'c.png') == data


@pytest.mark.parametrize(
  ('header', 'lines', 'match'),
  [
    ('photo,label', ['a.png,x', 'b.wav,y'], r"line 3, column 'photo': 'b.wav'"),
    ('photo,label', ['a.png,x', 'b.png'], r'line 3 has 1 cells; expected 2'),
    ('note;age;label', ['a;1,5;x'] * 9, 'Put commas between columns'),
    ('photo,label', ['a.png,', 'b.png,'], r"column 'label': .*in all rows"),
    ('note,label,group', ['a,x,1', 'b,y,'], r"line 3, column 'group': .*empty"),
    ('photo,label,label_present', ['a.png,x,1'], 'leave its cell empty'),
    ('note,label', ['a,-1', 'b,0'], r'-1 beside 0: .*cell empty if'),
    ('note,label', ['a,0.5', 'b,inf'], r"line 3, column 'label': inf; .*fin"),
    ('note,label', ['list.csv,x', 'b,y'], r"line 2, .*'list.csv' is a file"),
    ('note,label', [f'{"a" * 9_999},x', 'b,y'], r"no row of .*: \{'x': 1"),
    ('age,label', ['3,x', 'inf,y'], r"line 3, column 'age': 'inf'; .*finite"),
    (
      'numbers,age,label',
      ['a,1,x', 'b,2,y'] * 5,
      r"a column 'numbers', and .*age",
    ),
    (
      'eye,eye.a,label',
      ['a,1,x', 'b,2,y'] * 5,
      r"a column 'eye', and .*'eye.a'",
    ),
    ('photo,label', [',x', ',y'], r"line 2, column 'photo': .*all rows"),
    (
      'note,age,label,split',
      [
        f'{"" if i < 8 else "so"},1,{i % 2},{SPLITS[i // 4]}' for i in range(16)
      ],
      "'note' is missing in all rows of train",
    ),
    (
      'note,age,label',
      ['a,1,x', ',,', 'b,,y', ',2,x', ' ,nan,y', *['a,2,x', 'b,2,y'] * 5],
      'line 6: no modality is there. Leave the row out',
    ),
    (
      'age,eye.a,eye.b,label',
      ['1,2,3,x', '1,,3,y', *['1,2,3,y', '1,2,3,x'] * 5],
      r"line 3: 'eye' has no \['eye.a'\]; expected all of \['eye.a', 'eye.b'\]",
    ),
    (
      'age,weight,label',
      [*['1,2,x', '1,3,y'] * 5, 'nan,4,x'],
      r"line 12: 'numbers' has no \['age'\]; .*Fill the gap",
    ),
    ('photo,photo', ['a.png,x'], 'names, each once'),
    ('note,label', ['a,1', 'b,1.0', 'c,'], "'1' and '1.0' are one number"),
    ('note,label,Split', ['a,x,train'], r"it has 'Split'; write 'split'"),
    ('photo;label', ['a.png;x'], r"no 'label'\. Expected, with commas"),
    ('label,split', ['x,train'], 'no modality'),
    ('photo,label', ['\n'], 'has no row'),
    ('note,label,split', ['a,x,dev'], r"'split' has .*line 2 has 'dev'"),
    ('note,label,split', ['a,x,train'] * 2, r"\['train'\]; expected rows of"),
  ],
)
def test_errors_name_what_does_not_fit(tmp_path, header, lines, match):
  with pytest.raises(ValueError, match=match) as caught:
    folders.read(write_list(tmp_path, header, lines))
  assert 'list.csv' in str(caught.value)


def test_names_of_files_beside_a_mark_for_none_are_no_texts(folder):
  path = folder / 'marked.csv'
  path.write_text('photo,label\nnan,x\nfiles/none.png,y\nfiles/1.png,y')
  with pytest.raises(ValueError, match=r"line 2, .*'nan'; expected a picture"):
    folders.read(path)
  path.unlink()


def test_without_one_list_it_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no CSV in .*Expected'):
    folders.read(tmp_path)
  write_list(tmp_path)
  write_list(tmp_path, name='other.CSV')
  with pytest.raises(ValueError, match=r'list.csv, other.CSV; give the path'):
    folders.read(tmp_path)
  assert len(folders.read(tmp_path / 'other.CSV').lines) == ROWS
