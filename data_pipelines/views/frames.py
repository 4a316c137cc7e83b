"""Views of a clip's frames: chosen, cropped, and normalised on the device."""

import dataclasses
import math
from typing import Any, Literal, TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines import _pictures
from data_pipelines import sources

with _extra.data_extra():
  from PIL import Image

if TYPE_CHECKING:
  import jax

Policy = Literal['first', 'segments', 'segment_starts', 'ends']
Box = tuple[int, int, int, int]  # left, top, right, bottom
Array = TypeVar('Array', 'jax.Array', npt.NDArray[Any])

POLICIES = ('first', 'segments', 'segment_starts', 'ends')
CROPS = ('resized', 'whole')
EVALUATIONS = ('resize', 'center_crop')

# Statistics of ImageNet's pictures in [0, 1]: red, green, blue.
_MEAN = np.array([0.485, 0.456, 0.406])
_STD = np.array([0.229, 0.224, 0.225])
# (x / 255 - mean) / std = x · scale - shift.
_SCALE = (1 / (255 * _STD)).astype(np.float32)
_SHIFT = (_MEAN / _STD).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Frames:
  """Some frames of a clip as uint8 pictures of one size.

  With a generator, each frame is cropped at random (see `random_box`), resized
  and, with probability ½, mirrored; without one, it is only resized. Pillow
  decodes and resizes (bilinear, over the area that a pixel covers), as
  torchvision does with Pillow's pictures. `on_device` then shifts and scales
  red, green and blue by ImageNet's means and deviations. A batch of bytes is a
  quarter as large as one of floats, so it costs a quarter to write, to hand
  from process to process and to copy to the device.

  OGM and PMR use `first`; OGM for Kinetics-Sounds and AVE `segment_starts`;
  BalanceBenchmark, MMPareto and Valuate `segments`; all with the defaults.
  BalanceBenchmark for UCF-101 uses `crop='whole'`. BML uses `ends`, `size=112`,
  `per_clip=True`, `min_area=0.25` and `evaluation='center_crop'`.

  Attributes:
    num_frames: How many frames.
    policy: Which frames; see `indices`.
    size: Height and width of the pictures.
    crop: In training, 'resized' crops at random; 'whole' does not.
    per_clip: Whether all frames of a clip share one crop and one mirroring, or
      each draws its own.
    min_area: The smallest crop, as a share of the frame's area.
    evaluation: 'resize' ignores the aspect ratio; 'center_crop' resizes the
      shorter side and cuts out the middle.
    source: Name of the stored frames.

  Raises:
    ValueError: if an attribute is outside its range.

  Examples:
    >>> import io
    >>> import numpy as np
    >>> from PIL import Image
    >>> jpeg = io.BytesIO()
    >>> Image.new('RGB', (64, 48), (240, 240, 240)).save(jpeg, 'JPEG')
    >>> element = {'frames': np.array([jpeg.getvalue()] * 10, object)}
    >>> pictures = Frames(3, 'segments')(element, np.random.default_rng(0))
    >>> pictures.shape, pictures[2, 100, 50].tolist()
    ((3, 224, 224, 3), [240, 240, 240])
    >>> import jax
    >>> jax.jit(Frames(3, 'segments').on_device)(pictures)[2, 100, 50].tolist()
    [1.992, 2.166, 2.379]
  """

  num_frames: int
  policy: Policy
  size: int = 224
  crop: Literal['resized', 'whole'] = 'resized'
  per_clip: bool = False
  min_area: float = 0.08
  evaluation: Literal['resize', 'center_crop'] = 'resize'
  source: str = 'frames'

  def __post_init__(self) -> None:
    for name, known in [
      ('policy', POLICIES),
      ('crop', CROPS),
      ('evaluation', EVALUATIONS),
    ]:
      if getattr(self, name) not in known:
        raise ValueError(
          f'Unknown {name} {getattr(self, name)!r}. Known: {", ".join(known)}.'
        )
    if self.num_frames < 1 or self.size < 1 or not 0 < self.min_area <= 1:
      raise ValueError(
        'Expected num_frames and size of at least 1 and 0 < min_area <= 1, got '
        f'{self.num_frames}, {self.size} and {self.min_area}.'
      )

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> npt.NDArray[np.uint8]:
    """Makes pictures of an array [t] of encoded frames; see `View`.

    Returns:
      [num_frames, size, size, 3] uint8.

    Raises:
      ValueError: if the entry is missing or there is no frame.
    """
    encoded = sources.entry(element, self.source)
    chosen = indices(self.policy, len(encoded), self.num_frames, random)
    # Share a seed rather than a box, since the frames of a clip may differ in
    # size.
    seed = (
      random.integers(2**63) if random is not None and self.per_clip else None
    )
    shape = [self.num_frames, self.size, self.size, 3]
    pictures = np.empty(shape, np.uint8)
    for picture, index in zip(pictures, chosen, strict=True):
      frame = _pictures.in_colours(_pictures.opened(encoded[index]))
      if random is None:
        picture[...] = self._evaluated(frame)
      else:
        own = random if seed is None else np.random.default_rng(seed)
        picture[...] = self._augmented(frame, own)
    return pictures

  def on_device(self, value: Array) -> Array:
    """Normalises pictures, [..., 3] uint8, to (x / 255 - mean) / std, float32.

    Raises:
      ValueError: if they are not uint8, for example normalised already.
    """
    if value.dtype != np.uint8:
      raise ValueError(
        f'Expected pictures as the loader gives them, uint8, got {value.dtype}.'
        ' Normalise them only once.'
      )
    # Of the same rank, since `jax_numpy_rank_promotion` may be 'raise'.
    colours = (1,) * (value.ndim - 1) + (3,)
    scaled = value.astype(np.float32) * _SCALE.reshape(colours)
    return scaled - _SHIFT.reshape(colours)

  def _augmented(
    self, frame: Image.Image, random: np.random.Generator
  ) -> Image.Image:
    if self.crop == 'resized':
      # Crop first: Pillow's resize(box=...) reads pixels beyond the box.
      frame = frame.crop(random_box(*frame.size, self.min_area, random))
    frame = _resized(frame, self.size, self.size)
    if random.random() < 0.5:
      frame = frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return frame

  def _evaluated(self, frame: Image.Image) -> Image.Image:
    if self.evaluation == 'resize':
      return _resized(frame, self.size, self.size)
    # Rounded as torchvision's Resize and CenterCrop do.
    shorter = min(frame.size)
    width, height = (self.size * side // shorter for side in frame.size)
    left, top = (round((side - self.size) / 2) for side in (width, height))
    return _resized(frame, width, height).crop(
      (left, top, left + self.size, top + self.size)
    )


def indices(
  policy: Policy,
  length: int,
  num_frames: int,
  random: np.random.Generator | None,
) -> npt.NDArray[np.integer[Any]]:
  """Chooses frames of a clip: [num_frames] indices, in order.

  'first' takes the first ones. 'segments' cuts the clip into equal segments of
  ⌊length / num_frames⌋ frames and takes one of each: a random one with a
  generator, else the middle one (the later of two if the number is even).
  'segment_starts' takes the first frame of each segment. If the clip has fewer
  frames than asked for, these three take all and repeat the last. 'ends'
  spreads the frames evenly from the first to the last.

  Raises:
    ValueError: if the clip has no frame.

  Examples:
    >>> for policy in POLICIES:
    ...   print(policy, indices(policy, 10, 3, None))
    first [0 1 2]
    segments [1 4 7]
    segment_starts [0 3 6]
    ends [0 4 9]
  """
  if length < 1:
    raise ValueError(
      'Expected a clip with frames, got one without. Leave such elements out '
      'when the data set is prepared.'
    )
  places = np.arange(num_frames)
  if policy == 'ends':
    return places * (length - 1) // max(num_frames - 1, 1)
  if policy == 'first' or length < num_frames:
    return np.minimum(places, length - 1)
  segment = length // num_frames
  if policy == 'segment_starts':
    return places * segment
  if random is None:
    return places * segment + segment // 2
  return places * segment + random.integers(segment, size=num_frames)


def random_box(
  width: int, height: int, min_area: float, random: np.random.Generator
) -> Box:
  """Draws the box to crop as torchvision's `RandomResizedCrop` does.

  The share of the frame's area is uniform from min_area to 1, the logarithm of
  the aspect ratio (width / height) is uniform from ln ¾ to ln 4/3, and the
  position is uniform within the frame. The first of ten draws that fits is
  taken; if none fits, the largest centred box whose ratio is in the range.

  Returns:
    The box: left, top, right, bottom; the last two exclusive.

  Examples:
    >>> import numpy as np
    >>> random_box(320, 240, 0.08, np.random.default_rng(0))
    (193, 23, 276, 132)
    >>> random_box(100, 1, 1.0, np.random.default_rng(0))
    (49, 0, 50, 1)
  """
  low, high = 3 / 4, 4 / 3
  for _ in range(10):
    area = width * height * random.uniform(min_area, 1)
    ratio = math.exp(random.uniform(math.log(low), math.log(high)))
    box_width = round(math.sqrt(area * ratio))
    box_height = round(math.sqrt(area / ratio))
    if 0 < box_width <= width and 0 < box_height <= height:
      top = int(random.integers(height - box_height + 1))
      left = int(random.integers(width - box_width + 1))
      return left, top, left + box_width, top + box_height
  box_width = min(width, round(height * high))
  box_height = min(height, round(width / low))
  left, top = (width - box_width) // 2, (height - box_height) // 2
  return left, top, left + box_width, top + box_height


def _resized(frame: Image.Image, width: int, height: int) -> Image.Image:
  return frame.resize((width, height), Image.Resampling.BILINEAR)
