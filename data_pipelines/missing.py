"""Drops modalities of random rows: the same ones in every epoch."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines import sources

Present = dict[str, npt.NDArray[np.bool_]]


def entry(modality: str) -> str:
  """Names the entry of an element that says whether it has a modality."""
  return f'{modality}_present'


@dataclasses.dataclass(frozen=True, eq=False)
class _Incomplete:
  """Elements with `<modality>_present` entries added."""

  source: sources.Source
  present: Present
  modalities: Collection[str]  # all of them, with a rate or without

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int, /) -> sources.Element:
    element = self.source[index]
    drawn = {entry(name): rows[index] for name, rows in self.present.items()}
    row = element | drawn
    # The element's own entries may say that it lacks all other modalities.
    if not any(row.get(entry(name), True) for name in self.modalities):
      drawn = dict.fromkeys(drawn, np.True_)
    return element | drawn


def incomplete(
  source: sources.Source,
  rates: Mapping[str, float],
  seed: int | Sequence[int],
) -> sources.Source:
  """Marks modalities of some rows as missing.

  Which ones depends on the row's number and the seed alone: a row that lacks a
  modality lacks it in every epoch. The values stay in the element; models have
  to ignore them. A row that would be left without any modality, because its own
  entries say that it lacks the others, loses none here.

  Args:
    source: Any source.
    rates: See `draw`.
    seed: See `draw`.

  Returns:
    The same elements, with an entry `<modality>_present`, bool, for each
    modality whose rate is above 0; the source itself if there is none.

  Raises:
    ValueError: as `draw`, or if the elements already have such an entry.

  Examples:
    >>> rows = [{'a': x, 'b': -x} for x in range(3)]
    >>> [row['b_present'] for row in incomplete(rows, {'a': 0, 'b': 0.5}, 0)]
    [np.False_, np.True_, np.True_]
    >>> incomplete(rows, {'a': 0, 'b': 0}, 0) is rows
    True
  """
  present = draw(len(source), rates, seed)
  present = {name: rows for name, rows in present.items() if rates[name] > 0}
  if not present:
    return source
  if taken := sorted(source[0].keys() & set(map(entry, present))):
    raise ValueError(
      f'The elements already have {taken}, which say what is missing. Give a'
      " missing rate of 0. In a configuration, give 'stored' for these"
      ' modalities and numbers for the others, by name.'
    )
  return _Incomplete(source, present, sorted(rates))


def draw(
  count: int, rates: Mapping[str, float], seed: int | Sequence[int]
) -> Present:
  """Draws which rows have which modalities, at least one each.

  In each row one modality is kept for certain, drawn with probability k_m
  proportional to 1 - r_m. Every other one is missing with probability
  r_m / (1 - k_m). So modality m is missing in a share r_m of all rows, in
  expectation, and no row lacks all of them. Independent draws would have to be
  repeated where a row lacks all, and would miss these rates. If all rates are
  equal, raising them drops more modalities and brings none back.

  Args:
    count: How many rows.
    rates: Every modality -> the share of rows that lack it, from 0 to 1.
    seed: One number from 0 to 2**32 - 1, or several.

  Returns:
    Modality -> [count] bool.

  Raises:
    ValueError: if a rate is outside its range, or the rates add up to more than
      the number of modalities minus 1, so that some rows would have none.

  Examples:
    >>> present = draw(1000, {'a': 0.7, 'b': 0.2, 'c': 0.0}, seed=0)
    >>> {name: int(np.sum(~rows)) for name, rows in present.items()}
    {'a': 677, 'b': 195, 'c': 0}
  """
  names = sorted(rates)
  lacking = np.array([rates[name] for name in names], np.float64)
  if not np.all((lacking >= 0) & (lacking <= 1)):
    raise ValueError(f'Expected missing rates from 0 to 1, got {dict(rates)}.')
  having = np.sum(1 - lacking)
  if having < 1 - 1e-9:
    raise ValueError(
      f'Missing rates of {dict(rates)} would leave rows without any modality;'
      f' expected a sum of at most {len(names) - 1}, so that each row has one.'
    )
  shares = (1 - lacking) / having
  among_others = np.divide(
    lacking, 1 - shares, out=np.zeros_like(lacking), where=shares < 1
  )
  # NumPy promises never to change what RandomState draws.
  generator = np.random.RandomState(np.atleast_1d(seed))
  kept = np.searchsorted(
    np.cumsum(shares)[:-1], generator.random_sample(count), side='right'
  )
  numbers = generator.random_sample((len(names), count))
  return {
    name: (kept == i) | (numbers[i] >= among_others[i])
    for i, name in enumerate(names)
  }
