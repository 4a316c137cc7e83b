"""The folder of AVE: its lists of events, their splits, and a tiny copy."""

import pathlib
from typing import NamedTuple

import numpy as np

from data_pipelines.reading import audit
from data_pipelines.reading import lists
from data_pipelines.reading import manual
from data_pipelines.reading import splitting
from data_pipelines.reading import youtube
from data_pipelines.samples import tiny

CLASSES = (
  *('Church bell', 'Male speech, man speaking', 'Bark'),
  *('Fixed-wing aircraft, airplane', 'Race car, auto racing'),
  *('Female speech, woman speaking', 'Helicopter', 'Violin, fiddle', 'Flute'),
  *('Ukulele', 'Frying (food)', 'Truck', 'Shofar', 'Motorcycle'),
  *('Acoustic guitar', 'Train horn', 'Clock', 'Banjo', 'Goat'),
  *('Baby cry, infant cry', 'Bus', 'Chainsaw', 'Cat', 'Horse'),
  *('Toilet flush', 'Rodents, rats, mice', 'Accordion', 'Mandolin'),
)
"""The classes, in the order of their first event in the lists."""
SECONDS = 10
"""The length of a video."""
BACKGROUND = len(CLASSES)
"""The label of a second without the event."""
EXPECTED = {'train': 3_294, 'validation': 401, 'test': 402}
"""Videos. Train has 3,312, but 18 of them are in another list, too."""

TREE = """\
  AVE/<id>.mp4                   4,097 videos of ten seconds
  trainSet.txt, valSet.txt, testSet.txt
                                 3,339, 402 and 402 lines
                                 <category>&<id>&<quality>&<start>&<end>
The folder may also be the one above, which has it as AVE_Dataset."""

_LISTS = {
  'train': 'trainSet.txt',
  'validation': 'valSet.txt',
  'test': 'testSet.txt',
}
# Classes in the sample; the name of one has a comma.
_SAMPLED = (0, 7, 18, 26)


class Event(NamedTuple):
  """An event in a video, from second `start` to `end`."""

  label: int
  start: int
  end: int

  @property
  def segment_labels(self) -> list[int]:
    """The class of each second; all are background if the event is empty."""
    return [
      self.label if self.start <= second < self.end else BACKGROUND
      for second in range(SECONDS)
    ]


Items = dict[str, Event | audit.SkipError]


def folder(root: pathlib.Path) -> pathlib.Path:
  """Finds the folder with the lists: the given one or `AVE_Dataset` in it.

  Raises:
    FileNotFoundError, ValueError: as `manual.file`, for the training list.
  """
  names = (_LISTS['train'], f'AVE_Dataset/{_LISTS["train"]}')
  return manual.file(root, names, TREE).parent


def splits(root: pathlib.Path) -> dict[str, Items]:
  """Lists the videos of each split.

  Returns:
    Split -> key -> the event of a video, or why it is left out. Videos are
    listed whether or not their files exist. If a list has several lines for a
    video, the first counts. A video in two lists stays in the later of train,
    validation, test.

  Raises:
    FileNotFoundError: if a list is missing.
    ValueError: if a line of a list is wrong.
  """
  parts = {
    part: _read_list(manual.file(root, (name,), TREE))
    for part, name in _LISTS.items()
  }
  return splitting.without_repeats(parts, group=str)


def _read_list(path: pathlib.Path) -> list[tuple[str, Event]]:
  """Reads (id, event) from each line; the file may begin with a header."""
  numbers = {name: number for number, name in enumerate(CLASSES)}
  seconds = {str(second): second for second in range(SECONDS + 1)}
  listed = []
  for number, line in enumerate(lists.read(path).splitlines(), 1):
    cells = [cell.strip() for cell in line.split('&')]
    is_header = number == 1 and not any(
      cell in numbers or cell.isdigit() for cell in cells
    )
    if not line.strip() or (is_header and len(cells) == 5):
      continue
    where = f'{path}, line {number}'
    if len(cells) != 5 or not cells[1]:
      raise ValueError(
        f'{where}: expected <category>&<id>&<quality>&<start>&<end>, got'
        f' {line!r}.'
      )
    category, video, _, start, end = cells
    if category not in numbers:
      raise ValueError(
        f'{where}: {category!r} is not one of the categories'
        f' {"; ".join(CLASSES)}.'
      )
    if not (
      start in seconds and end in seconds and seconds[start] <= seconds[end]
    ):
      raise ValueError(
        f'{where}: expected whole seconds, 0 <= start <= end <= {SECONDS}, got'
        f' start {start} and end {end}.'
      )
    with lists.at(where):
      youtube.check_video(video)
    event = Event(numbers[category], seconds[start], seconds[end])
    listed.append((video, event))
  if not listed:
    raise ValueError(
      f'{path} has no line <category>&<id>&<quality>&<start>&<end>.'
    )
  return listed


def write_sample(root: pathlib.Path) -> None:
  """Writes a tiny tree: real MP4 files of 4 of the classes, and all lists."""
  random = np.random.RandomState(0)
  lines: dict[str, list[str]] = {part: [] for part in _LISTS}
  for number in range(60):
    place = number % len(_SAMPLED)
    start = int(random.randint(0, 4))
    end = start + int(random.randint(4, 7))
    # The event is heard and seen only from its start to its end.
    sound = tiny.sound(place, len(_SAMPLED), SECONDS, random)
    silence = random.normal(0, 0.15, len(sound)).astype(np.float32)
    rate = len(sound) // SECONDS
    silence[start * rate : end * rate] = sound[start * rate : end * rate]
    grey = random.normal(90, 20, (SECONDS, 32, 48, 3)).clip(0, 255)
    pictures = list(grey.astype(np.uint8))
    pictures[start:end] = tiny.pictures(
      place, len(_SAMPLED), end - start, random, 32, 48
    )
    path = root / 'AVE' / f'sample-{number:04d}.mp4'
    tiny.write_video(path, pictures, 1, silence)
    part = 'train' if number < 40 else 'validation' if number < 50 else 'test'
    category = CLASSES[_SAMPLED[place]]
    lines[part].append(f'{category}&sample-{number:04d}&good&{start}&{end}\n')
  for part, listed in lines.items():
    (root / _LISTS[part]).write_text(''.join(listed))
