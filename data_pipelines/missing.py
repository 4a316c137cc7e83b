"""Rows that lack modalities: which ones is drawn once, and stays."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from data_pipelines import sources

Present = dict[str, npt.NDArray[np.bool_]]


def entry(modality: str) -> str:
  """The entry of an element that says whether it has a modality."""
  return f'{modality}_present'


@dataclasses.dataclass(frozen=True, eq=False)
class _Incomplete:
  """Elements, and beside each modality whether it is there."""

  source: sources.Source
  present: Present
  modalities: Collection[str]  # all

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int, /) -> sources.Element:
    element = self.source[index]
    said = {entry(name): rows[index] for name, rows in self.present.items()}
    there = element | said
    if not any(there.get(entry(name), True) for name in self.modalities):
      said = dict.fromkeys(said, np.True_)
    return element | said


def incomplete(
  source: sources.Source,
  rates: Mapping[str, float],
  seed: int | Sequence[int],
) -> sources.Source:
  """Says of some rows that they lack some modalities.

  Which ones depends on the row's number and the seed alone: a row that lacks a
  modality lacks it in every epoch. Values stay as they are, to be overlooked.
  One that says itself that it lacks the others keeps what is drawn here.

  Args:
    source: Any source.
    rates: As of `draw`.
    seed: As of `draw`.

  Returns:
    A source of the same elements, which have `<modality>_present`, bool, of
    each modality whose rate is above 0; the source itself without such.

  Raises:
    ValueError: as `draw`, or if elements have such an entry.

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
      " missing rate of 0; in a configuration, 'stored' for these modalities"
      ' and numbers for others, by name.'
    )
  return _Incomplete(source, present, sorted(rates))


def draw(
  count: int, rates: Mapping[str, float], seed: int | Sequence[int]
) -> Present:
  """Draws which rows have which modalities, at least one each.

  In each row one modality is kept, drawn with probability k_m in proportion to
  1 - r_m; every other one is missing with probability r_m / (1 - k_m). So
  modality m is missing in a share r_m of all rows, in expectation, although no
  row lacks all; independent draws would have to be repeated, and miss it. Where
  all rates are equal, a higher one takes away more of the same.

  Args:
    count: How many rows.
    rates: Every modality -> the share of rows that lack it, from 0 to 1.
    seed: One number from 0 to 2**32 - 1, or several.

  Returns:
    Modality -> [count] bool.

  Raises:
    ValueError: if a rate is outside its range, or rows could have none of the
      modalities: the shares of rows that have each must add up to at least 1.

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
      f' expected a sum of at most {len(names) - 1}, that each row has one.'
    )
  shares = (1 - lacking) / having
  among_others = np.divide(
    lacking, 1 - shares, out=np.zeros_like(lacking), where=shares < 1
  )
  # RandomState, whose numbers NumPy promises never to change.
  generator = np.random.RandomState(np.atleast_1d(seed))
  kept = np.searchsorted(
    np.cumsum(shares)[:-1], generator.random_sample(count), side='right'
  )
  numbers = generator.random_sample((len(names), count))
  return {
    name: (kept == i) | (numbers[i] >= among_others[i])
    for i, name in enumerate(names)
  }
