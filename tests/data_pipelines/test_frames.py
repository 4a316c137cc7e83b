"""Frames of a clip: which, how cropped and resized, how normalised."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from data_pipelines.views import frames

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])


def encoded(pixels):
  """Encodes a picture without loss (PNG), so that tests know its pixels."""
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, 'PNG')
  return stream.getvalue()


def element(pictures):
  values = np.empty(len(pictures), object)
  values[:] = [encoded(p) for p in pictures]
  return {'frames': values}


def noise(height, width, seed=0):
  random = np.random.RandomState(seed)
  return random.randint(0, 256, [height, width, 3]).astype(np.uint8)


def ramp(height, width):
  """A picture: red grows to the right, green downwards, blue is constant."""
  pixels = np.full([height, width, 3], 77, np.uint8)
  pixels[..., 0] = np.linspace(20, 230, width).round()
  pixels[..., 1] = np.linspace(200, 50, height).round()[:, None]
  return pixels


def resized(pixels, height, width):
  """Resizes bilinearly; a smaller picture averages over what a pixel covers."""

  def weights(before, after):
    scale = before / after
    reach = max(scale, 1)
    matrix = np.zeros([after, before])
    for i in range(after):
      for j in range(before):
        distance = abs(j + 0.5 - (i + 0.5) * scale) / reach
        matrix[i, j] = max(0, 1 - distance)
    return matrix / matrix.sum(axis=1, keepdims=True)

  rows = weights(pixels.shape[0], height)
  columns = weights(pixels.shape[1], width)
  return np.einsum('ih,hwc,jw->ijc', rows, pixels, columns)


def torchvision_box(width, height, min_area, random):
  """Draws a box as RandomResizedCrop does, in its order: rows first."""
  for _ in range(10):
    target = height * width * random.uniform(min_area, 1.0)
    aspect = np.exp(random.uniform(np.log(0.75), np.log(4 / 3)))
    w = int(np.round(np.sqrt(target * aspect)))
    h = int(np.round(np.sqrt(target / aspect)))
    if 0 < w <= width and 0 < h <= height:
      i = random.integers(0, height - h + 1)
      j = random.integers(0, width - w + 1)
      return j, i, j + w, i + h
  ratio = width / height
  if ratio < 0.75:
    w, h = width, int(np.round(width / 0.75))
  elif ratio > 4 / 3:
    w, h = int(np.round(height * 4 / 3)), height
  else:
    w, h = width, height
  i, j = (height - h) // 2, (width - w) // 2
  return j, i, j + w, i + h


# Choosing frames.


@pytest.mark.parametrize(
  ('policy', 'length', 'num_frames', 'expected'),
  [
    ('first', 10, 4, [0, 1, 2, 3]),
    ('first', 3, 3, [0, 1, 2]),
    ('first', 2, 4, [0, 1, 1, 1]),
    ('segments', 10, 3, [1, 4, 7]),
    ('segments', 6, 3, [1, 3, 5]),
    ('segments', 20, 4, [2, 7, 12, 17]),
    ('segments', 5, 3, [0, 1, 2]),
    ('segments', 9, 1, [4]),
    ('segments', 2, 3, [0, 1, 1]),
    ('segment_starts', 10, 3, [0, 3, 6]),
    ('segment_starts', 9, 4, [0, 2, 4, 6]),
    ('segment_starts', 1, 3, [0, 0, 0]),
    ('ends', 10, 3, [0, 4, 9]),
    ('ends', 11, 3, [0, 5, 10]),
    ('ends', 2, 3, [0, 0, 1]),
    ('ends', 1, 3, [0, 0, 0]),
    ('ends', 7, 1, [0]),
    ('ends', 10, 4, [0, 3, 6, 9]),
  ],
)
def test_policies_choose_these_frames(policy, length, num_frames, expected):
  chosen = frames.indices(policy, length, num_frames, None)
  assert chosen.tolist() == expected
  if policy != 'segments':
    random = np.random.default_rng(0)
    before = random.bit_generator.state
    drawn = frames.indices(policy, length, num_frames, random)
    assert drawn.tolist() == expected
    assert random.bit_generator.state == before


def test_training_draws_uniformly_within_each_segment():
  random = np.random.default_rng(3)
  drawn = np.stack(
    [frames.indices('segments', 14, 3, random) for _ in range(600)]
  )
  for segment in range(3):
    # Segments of 4; the last 2 of 14 frames belong to none.
    counts = np.bincount(drawn[:, segment] - 4 * segment, minlength=4)
    assert len(counts) == 4
    # 150 expected of each, with a standard deviation of 11.
    assert counts.min() > 100
  # Segments draw independently: standard error 0.04 of a correlation.
  correlation = np.corrcoef(drawn.T)
  np.testing.assert_allclose(correlation, np.eye(3), atol=0.17)


def test_a_clip_without_frames_is_refused():
  nothing = {'frames': np.empty(0, object)}
  for policy in frames.POLICIES:
    for random in (None, np.random.default_rng(0)):
      with pytest.raises(ValueError, match='got one without'):
        frames.Frames(2, policy)(nothing, random)


def test_frames_come_in_the_order_of_the_policy():
  clip = element([np.full([5, 4, 3], 20 * i, np.uint8) for i in range(10)])
  for policy, expected in [('segments', [1, 4, 7]), ('ends', [0, 4, 9])]:
    views = frames.Frames(3, policy, size=2)(clip, None)
    levels = views.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, 20 * np.array(expected), atol=1e-3)


# Cropping.


@pytest.mark.parametrize(
  ('width', 'height', 'min_area'),
  [
    *((340, 256, 0.08), (120, 300, 0.25), (7, 5, 0.08)),
    # No crop fits these, so the largest centred box is taken.
    *((900, 40, 0.9), (12, 101, 0.9)),
  ],
)
def test_boxes_are_those_of_torchvision(width, height, min_area):
  ours, theirs = np.random.default_rng(1), np.random.default_rng(1)
  for _ in range(200):
    box = frames.random_box(width, height, min_area, ours)
    assert box == torchvision_box(width, height, min_area, theirs)
  # Both have drawn the same amount.
  assert ours.random() == theirs.random()


def test_training_crops_resizes_and_then_mirrors():
  pixels = noise(30, 44)
  mirrored = 0
  for seed in range(40):
    min_area = 0.6 if seed % 2 else 0.08
    view = frames.Frames(1, 'first', size=9, min_area=min_area)
    (picture,) = view(element([pixels]), np.random.default_rng(seed))
    random = np.random.default_rng(seed)
    left, top, right, bottom = torchvision_box(44, 30, min_area, random)
    expected = resized(pixels[top:bottom, left:right], 9, 9)
    if random.random() < 0.5:
      expected = expected[:, ::-1]
      mirrored += 1
    # Pillow rounds to whole numbers twice, after rows and after columns.
    np.testing.assert_allclose(picture, expected, atol=1.1)
  assert 0 < mirrored < 40


def test_each_frame_draws_its_own_crop_unless_the_clip_shares_one():
  clip = element([ramp(60, 80)] * 8)
  own = frames.Frames(8, 'first', size=8)
  assert len(np.unique(own(clip, np.random.default_rng(4)), axis=0)) == 8
  shared = frames.Frames(8, 'first', size=8, per_clip=True)
  draws = [shared(clip, np.random.default_rng(seed)) for seed in range(6)]
  for seed, views in enumerate(draws):
    assert len(np.unique(views, axis=0)) == 1
    again = shared(clip, np.random.default_rng(seed))
    np.testing.assert_array_equal(views, again)
  assert len(np.unique([views[0] for views in draws], axis=0)) == 6


def test_a_shared_crop_fits_frames_of_other_sizes():
  clip = element([ramp(60, 80), ramp(30, 40), ramp(90, 20)])
  view = frames.Frames(3, 'first', size=8, per_clip=True)
  views = view(clip, np.random.default_rng(0)).astype(float)
  # The same share of a frame half as large, up to rounding.
  np.testing.assert_allclose(views[0], views[1], atol=8)


def test_whole_frames_are_only_resized():
  pixels = ramp(21, 33)
  view = frames.Frames(1, 'first', size=7, crop='whole')
  trained = view(element([pixels]), np.random.default_rng(0))
  evaluated = view(element([pixels]), None)
  assert np.array_equal(trained, evaluated) or np.array_equal(
    trained, evaluated[:, :, ::-1]
  )


# Resizing and normalising.


@pytest.mark.parametrize(
  ('height', 'width', 'size'), [(31, 47, 10), (12, 9, 20), (8, 8, 8)]
)
def test_evaluation_resizes_regardless_of_the_aspect_ratio(height, width, size):
  pixels = noise(height, width)
  (picture,) = frames.Frames(1, 'first', size=size)(element([pixels]), None)
  expected = resized(pixels, size, size)
  np.testing.assert_allclose(picture, expected, atol=1.1)


@pytest.mark.parametrize(
  ('height', 'width', 'expected'),
  [
    # Resized to 12 x 18.
    (24, 36, np.s_[:, 3:15]),
    # Resized to 12 x 17.5, cut to 17; half of the surplus 5 is rounded to even.
    (24, 35, np.s_[:, 2:14]),
    (40, 24, np.s_[4:16, :]),
    (12, 12, np.s_[:, :]),
  ],
)
def test_evaluation_may_cut_out_the_middle(height, width, expected):
  pixels = ramp(height, width)
  view = frames.Frames(1, 'first', size=12, evaluation='center_crop')
  (picture,) = view(element([pixels]), None)
  assert picture.shape == (12, 12, 3)
  shorter = min(height, width)
  whole = resized(pixels, int(12 * height / shorter), int(12 * width / shorter))
  np.testing.assert_allclose(picture, whole[expected], atol=1.1)


def test_pictures_are_bytes_of_their_colours():
  stream = io.BytesIO()
  colour = (200, 30, 90)
  Image.new('RGB', (32, 24), colour).save(stream, 'JPEG', quality=100)
  clip = {'frames': np.array([stream.getvalue()], object)}
  for random in [None, np.random.default_rng(0)]:
    views = frames.Frames(2, 'first', size=16)(clip, random)
    assert views.shape == (2, 16, 16, 3)
    assert views.dtype == np.uint8
    # JPEG keeps a constant colour up to one level of rounding.
    assert np.abs(views - np.float64(colour)).max() <= 1


def test_the_device_normalises_every_channel_as_for_imagenet():
  pictures = noise(24, 5, seed=3).reshape(2, 3, 4, 5, 3)
  expected = (pictures / 255 - MEAN) / STD
  on_device = frames.Frames(3, 'first').on_device
  for finish in (jax.jit(on_device), jax.vmap(on_device), on_device):
    finished = finish(jnp.asarray(pictures))
    assert finished.dtype == jnp.float32
    np.testing.assert_allclose(finished, expected, atol=2e-6)
  scanned = jax.lax.scan(lambda _, x: (None, on_device(x)), None, pictures)[1]
  np.testing.assert_allclose(scanned, expected, atol=2e-6)


def test_pictures_are_not_normalised_twice():
  on_device = frames.Frames(1, 'first').on_device
  once = on_device(jnp.asarray(noise(4, 4)))
  with pytest.raises(ValueError, match=r'uint8, got float32.*only once'):
    jax.jit(on_device)(once)


def test_grey_pictures_have_three_equal_channels_of_8_or_16_bits():
  for grey in (np.full([6, 6], 128, np.uint8), np.full([6, 6], 32_800, '<u2')):
    views = frames.Frames(1, 'first', size=4)(element([grey]), None)
    assert views.shape == (1, 4, 4, 3)
    assert np.all(views == 128)


# Refused inputs.


def test_options_outside_their_range_are_refused():
  for changed, message in (
    ({'policy': 'last'}, r"policy 'last'.*first, segments"),
    ({'crop': 'none'}, r"crop 'none'.*resized, whole"),
    ({'evaluation': 'crop'}, r"evaluation 'crop'.*center_crop"),
    ({'num_frames': 0}, 'num_frames.*0, 224'),
    ({'size': 0}, 'size.*3, 0'),
    ({'min_area': 0}, 'min_area.* 0'),
    ({'min_area': 1.5}, r'min_area.*1\.5'),
    ({'min_area': float('nan')}, 'min_area.*nan'),
  ):
    options = {'num_frames': 3, 'policy': 'first'} | changed
    with pytest.raises(ValueError, match=message):
      frames.Frames(**options)
