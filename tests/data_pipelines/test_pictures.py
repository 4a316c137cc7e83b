"""Pictures, folders of them, and choosing among paths."""

import struct
import subprocess

import numpy as np
import PIL.Image
import pytest

from data_pipelines.reading import audio_visual
from data_pipelines.reading import pictures
from tests import clips


def write(path, level):
  clips.write_jpeg(path, np.full((8, 8, 3), level, np.uint8))


def test_pictures_are_read_unchanged_in_the_order_of_their_names(tmp_path):
  """Numbers in names are compared as numbers."""
  for names in (
    ('00003.jpg', '00020.jpg', '00100.jpg'),
    ('3.jpg', '20.jpg', '100.jpg'),
    ('frame3.jpg', 'frame20.JPG', 'frame100.jpeg'),
    ('1_3.JPEG', '1_20.Jpg', '2_1.jpg'),
  ):
    folder = tmp_path / names[0]
    for name, level in zip(names, (3, 20, 100), strict=True):
      write(folder / name, level)
    (folder / '._00003.jpg').write_bytes(b'a companion that a Mac leaves')
    (folder / 'notes.txt').write_text('x')
    frames = pictures.read_folder(folder)
    np.testing.assert_allclose(clips.levels(frames), [3, 20, 100], atol=1)
    assert frames[1] == (folder / names[1]).read_bytes()


def test_folders_with_damaged_or_no_pictures_are_skipped(tmp_path):
  assert clips.reason(pictures.read_folder, tmp_path / 'no')[0] == 'missing'
  assert clips.reason(pictures.read_folder, tmp_path)[0] == 'missing'
  path = tmp_path / '00000.jpg'
  for content, expected in (
    (pictures.jpeg(np.zeros((40, 40, 3), np.uint8))[:-60], 'corrupt'),
    (b'', 'corrupt'),
    (clips.POINTER, 'lfs_pointer'),
  ):
    path.write_bytes(content)
    found, detail = clips.reason(pictures.read_folder, tmp_path)
    assert found == expected and str(path) in detail


def test_a_picture_that_claims_to_be_huge_is_corrupt(tmp_path):
  """Once with more pixels than Pillow's limit, once with fewer."""
  for height, width in ((60_000, 60_000), (9_000, 8_000)):
    content = bytearray(pictures.jpeg(np.zeros((8, 8, 3), np.uint8)))
    frame = content.index(b'\xff\xc0') + 5  # height and width, big-endian
    content[frame : frame + 4] = struct.pack('>HH', height, width)
    (tmp_path / '1.jpg').write_bytes(content)
    found, detail = clips.reason(pictures.read_folder, tmp_path)
    assert found == 'corrupt' and str(tmp_path / '1.jpg') in detail


def test_pictures_of_other_formats_are_not_given_to_other_programs(
  tmp_path, monkeypatch
):
  """Pillow gives EPS to Ghostscript, whatever the name of the file."""
  picture = PIL.Image.new('RGB', (8, 8))
  monkeypatch.setattr(
    subprocess, 'Popen', lambda *_, **__: pytest.fail('a program was started')
  )
  for other in ('EPS', 'ICNS', 'DDS', 'TIFF'):
    picture.save(tmp_path / '1.jpg', other)
    found, _ = clips.reason(pictures.read_folder, tmp_path)
    assert found == 'corrupt', other


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_pictures_are_turned_upright_by_their_exif_orientation(tmp_path):
  """For each orientation, the dark corner has to end up top left."""
  seen = np.full((32, 48, 3), 120, np.uint8)
  seen[:16, :16] = 0
  held = {
    1: seen,
    2: seen[:, ::-1],
    3: seen[::-1, ::-1],
    4: seen[::-1],
    5: seen.swapaxes(0, 1),
    6: np.rot90(seen, 1),
    7: seen[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(seen, -1),
    9: seen,  # no such number
  }
  for number, pixels in held.items():
    tags = PIL.Image.Exif()
    tags[0x0112] = number
    picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(tmp_path / f'{number}.jpg', exif=tags, quality=95)
  pixels = clips.decoded(pictures.read_folder(tmp_path))
  np.testing.assert_allclose(pixels, np.tile(seen, (9, 1, 1, 1)), atol=8)
  for number in held:
    (tmp_path / f'{number}.jpg').unlink()
  for kind, damaged in (('JPEG', b'II*\0no tags'), ('PNG', b'no tags')):
    picture.save(tmp_path / f'{kind}.jpg', kind, exif=b'Exif\0\0' + damaged)
  assert len(pictures.read_folder(tmp_path)) == 2


def test_an_empty_copy_of_a_file_is_passed_over(tmp_path):
  places = [tmp_path / name for name in ('a.wav', 'b.wav', 'c.wav', 'd.wav')]
  assert audio_visual.first_that_is(*places) == places[0]
  places[1].write_bytes(b'')
  assert audio_visual.first_that_is(*places) == places[1]
  places[2].write_bytes(clips.POINTER)
  assert audio_visual.first_that_is(*places[1:]) == places[1]
  (tmp_path / 'd.WAV').write_bytes(b'RIFF')
  assert audio_visual.first_that_is(*places) == tmp_path / 'd.WAV'
  blank, folder = tmp_path / 'blank', tmp_path / 'folder'
  blank.mkdir()
  write(folder / '1.jpg', 9)
  assert audio_visual.first_that_is(blank, folder) == folder
