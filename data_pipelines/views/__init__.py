"""Views: what a model sees of a stored element, in training and in evaluation.

A data set stores signals, frames and features once; each experiment in the
field preprocesses them in its own way. A *view* makes one entry of a batch
from a stored element; two transforms apply views.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines import sources
from data_pipelines.views import frames
from data_pipelines.views.audio import FilterBank as FilterBank
from data_pipelines.views.audio import Psd3s as Psd3s
from data_pipelines.views.audio import Psd10s as Psd10s
from data_pipelines.views.audio import Stft3s as Stft3s
from data_pipelines.views.audio import Stft5s as Stft5s
from data_pipelines.views.entries import HashedWords as HashedWords
from data_pipelines.views.entries import Numbers as Numbers
from data_pipelines.views.entries import Pooled as Pooled
from data_pipelines.views.entries import Scaled as Scaled
from data_pipelines.views.frames import Frames as Frames
from data_pipelines.views.sequences import BinaryLabel as BinaryLabel
from data_pipelines.views.sequences import PaddedSequence as PaddedSequence
from data_pipelines.views.sequences import Score as Score
from data_pipelines.views.sequences import SequenceLength as SequenceLength
from data_pipelines.views.sequences import SevenClassLabel as SevenClassLabel

with _extra.data_extra():
  import grain

RANDOM = (Frames, Stft5s)
"""Views that draw at random in training; all others are deterministic."""


class View(Protocol):
  """Makes one entry of a batch from a stored element; a pure function.

  For speed it may also be a `DeviceView`.

  Examples:
    >>> view: View = Scaled('image', 255)
    >>> view({'image': 51}, None).item()
    0.2
  """

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> npt.NDArray[Any]:
    """Makes the entry, an array of the same shape for every element.

    Args:
      element: The stored element; it is not changed.
      random: The only other thing that the entry may depend on; None in
        evaluation, where a view is deterministic.
    """


@runtime_checkable
class DeviceView(View, Protocol):
  """A view whose last step runs on the accelerator.

  The loader makes something small, such as pictures in bytes, and `on_device`
  turns it into what the model takes. Code that feeds a model calls it once,
  inside the compiled program, as `experiments.core.data.finish` does.

  Examples:
    >>> isinstance(Frames(1, 'first'), DeviceView)
    True
    >>> isinstance(Scaled('image', 255), DeviceView)
    False
  """

  def on_device(self, value: frames.Array) -> frames.Array:
    """Finishes entries that the view has made; a pure function.

    Args:
      value: One entry, or entries with any leading axes, as in a batch, of JAX
        or NumPy. The result has the same axes, and is of the same library.
    """


@dataclasses.dataclass(frozen=True)
class Finished:
  """A view that does in the loader what `DeviceView` leaves to the device.

  Use it where the loader itself needs finished entries, for example to add
  noise in their units.

  Attributes:
    view: The view to finish.

  Examples:
    >>> import io
    >>> from PIL import Image
    >>> jpeg = io.BytesIO()
    >>> Image.new('RGB', (8, 8), (240, 240, 240)).save(jpeg, 'JPEG')
    >>> element = {'frames': np.array([jpeg.getvalue()], object)}
    >>> Finished(Frames(1, 'first', 2))(element, None)[0, 0, 0].tolist()
    [1.992, 2.166, 2.379]
  """

  view: DeviceView

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> npt.NDArray[Any]:
    """Makes the finished entry; see `View`."""
    return self.view.on_device(self.view(element, random))


@dataclasses.dataclass(frozen=True, eq=False)
class _Views:
  """The entries of a new element: those made by views, and those kept."""

  views: Mapping[str, View]
  keep: Sequence[str] = ('label',)

  def __post_init__(self) -> None:
    both = sorted(set(self.views) & set(self.keep))
    if both:
      raise ValueError(
        f'Expected each entry to be a view or kept, got both for {both}. Remove'
        ' these names from `keep`.'
      )

  def _make(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> sources.Element:
    # Sorted, so that the draws do not depend on how the mapping was written.
    made = {
      name: self.views[name](element, random) for name in sorted(self.views)
    }
    return made | {name: sources.entry(element, name) for name in self.keep}


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingViews(_Views, grain.transforms.RandomMap):
  """Replaces an element by random views of it.

  Grain seeds the generator for each element and epoch, so the views depend on
  the loader's seed alone: not on workers, shards or restarts.

  Attributes:
    views: Name -> view: the entries that the new element gets.
    keep: Names of the entries that are copied. All others are dropped.

  Raises:
    ValueError: if a name is both in `views` and in `keep`.

  Examples:
    >>> import numpy as np
    >>> training = TrainingViews({'image': Scaled('raw', 255)})
    >>> element = {'raw': np.array([0, 51]), 'label': np.array(3)}
    >>> training.random_map(element, np.random.default_rng(0))
    {'image': array([0. , 0.2], dtype=float32), 'label': array(3)}
  """

  def random_map(
    self, element: sources.Element, rng: np.random.Generator
  ) -> sources.Element:
    """Makes a new element of the views; ValueError if an entry is missing."""
    return self._make(element, rng)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationViews(_Views, grain.transforms.Map):
  """Replaces an element by deterministic views of it; see `TrainingViews`.

  Examples:
    >>> import numpy as np
    >>> evaluation = EvaluationViews({'image': Scaled('raw', 255)}, keep=[])
    >>> evaluation.map({'raw': np.array([0, 51]), 'label': np.array(3)})
    {'image': array([0. , 0.2], dtype=float32)}
  """

  def map(self, element: sources.Element) -> sources.Element:
    """Makes the views of one element; see `TrainingViews.random_map`."""
    return self._make(element, None)
