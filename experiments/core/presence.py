"""Which modalities the rows of a run lack: `config.data.missing_rate`."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from ml_collections import config_dict

from data_pipelines import folders
from data_pipelines import missing
from data_pipelines import sources
from data_pipelines import views

STORED = 'stored'
"""Given in place of a rate: the stored rows say what they lack."""


def missing_rates(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Each modality's share of missing rows; empty if no row lacks any.

  Args:
    config: with `model.encoders` and `data.missing_rate`: a number for all
      modalities, or a mapping modality -> number, which is 0 for modalities
      that it leaves out. In place of a number, `STORED` is for elements with
      `<modality>_present`, or such an entry for what the modality's view reads.

  Raises:
    ValueError: if a modality is unknown, or a word is not `STORED`.
  """
  given: Any = config.data.to_dict().get('missing_rate', 0.0)
  names = sorted(config.model.encoders)
  if not isinstance(given, Mapping):
    given = dict.fromkeys(names, given)
  if unknown := sorted(set(given) - set(names)):
    raise ValueError(
      f'config.data.missing_rate has {unknown}; the modalities are {names}.'
    )
  words = {rate for rate in given.values() if isinstance(rate, str)}
  if unknown := sorted(words - {STORED}):
    raise ValueError(
      f'config.data.missing_rate has {unknown}; expected numbers from 0 to 1,'
      f' or {STORED!r}.'
    )
  rates = {name: given.get(name, 0.0) for name in names}
  return rates if any(rates.values()) else {}


def columns_of(name: str, view: views.View) -> tuple[str, ...]:
  """The stored entries that a view of this name reads.

  Examples:
    >>> columns_of('look', views.HashedWords('caption'))
    ('caption',)
  """
  several = tuple(getattr(view, 'columns', ()))
  return several or (getattr(view, 'source', name),)


@dataclasses.dataclass(frozen=True)
class Presence:
  """A view: whether an element has the modality that another view makes.

  Elements say so under the name of that view, or of what it reads.
  """

  name: str
  of: views.View

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> npt.NDArray[Any]:
    """Makes a bool of an element; see `views.View`."""
    del random
    found = [element[entry] for entry in self.stored(element)]
    if not found:
      raise ValueError(
        f'config.data.missing_rate of {self.name!r} is {STORED!r}, but elements'
        f' do not say which rows have it; they have {sorted(element)}.'
      )
    return np.asarray(np.all(found))

  def stored(self, element: sources.Element) -> list[str]:
    """The entries that say so; none if no row lacks it."""
    read: Iterable[str] = columns_of(self.name, self.of)
    if isinstance(self.of, views.Numbers):
      read = map(folders.modality_of_numbers, read)
    entries = map(missing.entry, dict.fromkeys((self.name, *read)))
    return [entry for entry in entries if entry in element]


def check(
  presence: Mapping[str, Presence],
  rates: Mapping[str, Any],
  row: sources.Element,
) -> None:
  """Refuses views that would take what stands in for a missing modality.

  Raises:
    ValueError: if a row that the views see says what it may lack, and the rate
      of `missing_rates` does not.
  """
  for name in sorted(presence):
    rate = rates.get(name, 0.0)
    told = presence[name].stored(row)
    if rate != STORED and rate > 0:  # drawn
      told.remove(missing.entry(name))
    if rate != STORED and told:
      raise ValueError(
        f'Rows may lack what the view {name!r} reads, as their entries {told}'
        f' say. Set config.data.missing_rate of {name!r} to {STORED!r}.'
      )
