"""Times programs in turn, and compares two that do the same."""

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from experiments.reporting import tables

# A program shorter than this is called once untimed in every round, to get its
# threads and caches back from the one before it, and then as often as takes
# about this long.
_TURN = 5e-3  # seconds
# Relative difference of two directions up to which they count as the same.
TOLERANCE = 1e-3


class Program(NamedTuple):
  """Something to time whose results can be compared."""

  run: Callable[[], Any]
  # Reads what `run` returned as a direction, one float64 vector.
  direction: Callable[[Any], np.ndarray[Any, Any]]


class Times(NamedTuple):
  """Seconds that one call takes."""

  rounds: np.ndarray[Any, Any]  # the median of the calls of a round, [rounds]
  fastest: float  # of all calls

  @property
  def median(self) -> float:
    """The median over the rounds."""
    return float(np.median(self.rounds))


class Comparison(NamedTuple):
  """One rule of ours, and that of others where they have it."""

  ours: Times
  theirs: Times | None = None
  difference: float = math.nan  # of the directions, relative to the longer one

  @property
  def ratio(self) -> float:
    """Their time by ours: the median over the rounds."""
    return math.nan if self.theirs is None else ratio(self.theirs, self.ours)

  @property
  def ratio_of_fastest(self) -> float:
    """The same of the fastest call of each, which load disturbs least."""
    if self.theirs is None:
      return math.nan
    return self.theirs.fastest / self.ours.fastest


def ratio(times: Times, reference: Times) -> float:
  """Median over the rounds of the ratio within a round."""
  return float(np.median(times.rounds / reference.rounds))


def interleaved(
  programs: Mapping[str, Callable[[], Any]],
  repeats: int,
  seconds: float = math.inf,
  warm: bool = False,
) -> dict[str, Times]:
  """Times programs in turn, after a first call that is not counted.

  Args:
    programs: functions without arguments that return arrays to wait for.
    repeats: the number of rounds. Their order is reversed in every other one.
    seconds: no round but the first two begins after this time.
    warm: whether each call that is timed comes after one that is not. Without,
      a long program finds the caches as the one before it left them, and the
      first and last find their own in every other round: a difference of one
      per cent, where that matters.

  Returns:
    Name -> times.
  """
  calls = {}
  for name, program in programs.items():
    taken = _seconds_of(program)
    if taken < 100 * _TURN:  # it may have compiled, or started its threads
      taken = _seconds_of(program)
    calls[name] = math.ceil(_TURN / taken)
  each: dict[str, list[list[float]]] = {name: [] for name in programs}
  began = time.perf_counter()
  for turn in tqdm.trange(repeats, desc=', '.join(programs), leave=False):
    if turn >= 2 and time.perf_counter() - began > seconds:
      break
    names = list(programs) if turn % 2 else list(reversed(list(programs)))
    for name in names:
      if warm or calls[name] > 1:
        _seconds_of(programs[name])
      each[name].append(
        [_seconds_of(programs[name]) for _ in range(calls[name])]
      )
  return {
    name: Times(np.median(rounds, axis=1), float(np.min(rounds)))
    for name, rounds in each.items()
  }


def _seconds_of(program: Callable[[], Any]) -> float:
  began = time.perf_counter()
  jax.block_until_ready(program())
  return time.perf_counter() - began


def compare(
  ours: Program,
  theirs: Program | None,
  repeats: int,
  seconds: float = math.inf,
) -> Comparison:
  """Times ours beside theirs, and compares their directions."""
  programs = {'ours': ours.run}
  if theirs is None:
    return Comparison(interleaved(programs, repeats, seconds)['ours'])
  programs['theirs'] = theirs.run
  taken = interleaved(programs, repeats, seconds)
  one, other = (each.direction(each.run()) for each in (ours, theirs))
  longer = max(np.linalg.norm(one), np.linalg.norm(other))
  difference = float(np.linalg.norm(one - other) / longer)
  return Comparison(taken['ours'], taken['theirs'], difference)


def table(
  comparisons: Mapping[str, Comparison],
  unit: str,
  reasons: Mapping[str, str],
) -> str:
  """The table of numbers, a row a rule.

  Args:
    comparisons: name -> times.
    unit: 'ms' or 'us'.
    reasons: name -> why their direction may be another than ours.

  Returns:
    Markdown. Rows of directions that differ end in the reason.
  """
  scale = {'ms': 1e3, 'us': 1e6}[unit]
  header = ['rule', f'ours, {unit}', 'rounds']
  compared = any(each.theirs is not None for each in comparisons.values())
  if compared:
    header += ['theirs', 'ratio', 'fastest', 'difference', 'reason']
  rows = []
  for name, each in comparisons.items():
    row = [name, f'{scale * each.ours.median:.2f}', f'{len(each.ours.rounds)}']
    if each.theirs is not None:
      row += [
        f'{scale * each.theirs.median:.2f}',
        f'{each.ratio:.2f}',
        f'{each.ratio_of_fastest:.2f}',
        f'{each.difference:.1e}',
        '' if each.difference <= TOLERANCE else reasons.get(name) or 'DIFFERS',
      ]
    rows.append(row + [''] * (len(header) - len(row)))
  return tables.markdown(header, rows)


def ratios(taken: Mapping[str, Times], references: Mapping[str, str]) -> str:
  """The table of milliseconds, and of ratios to the reference of each."""
  return tables.markdown(
    ['program', 'ms', 'ratio', 'to'],
    [
      [
        name,
        f'{1e3 * times.median:.2f}',
        f'{ratio(times, taken[references[name]]):.2f}',
        references[name],
      ]
      for name, times in taken.items()
    ],
  )


def summary(comparisons: Mapping[str, Comparison]) -> str:
  """The median ratio, and the least one with the name of its comparison."""
  ratios = {name: each.ratio for name, each in comparisons.items()}
  fastest = {name: each.ratio_of_fastest for name, each in comparisons.items()}
  return f'{_spread(ratios)}; of the fastest calls: {_spread(fastest)}'


def _spread(ratios: Mapping[str, float]) -> str:
  least = min(ratios, key=ratios.__getitem__)
  return (
    f'median {np.median(list(ratios.values())):.2f}, least'
    f' {ratios[least]:.2f} ({least})'
  )


def ready(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
  """A compiled program on its arguments."""
  compiled = jax.jit(function).lower(*arguments).compile()
  return lambda: compiled(*arguments)


def machine() -> str:
  """Where and with what is timed, and how busy it is."""
  return (
    f'{jax.devices()[0].device_kind}, jax {jax.__version__},'
    f' {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}'
  )
