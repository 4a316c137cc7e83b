"""Times programs in turn, and compares two that do the same."""

import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from experiments.core import compilation
from experiments.report import tables

# A program shorter than this is called once untimed in every round, to get its
# threads and caches back from the one before it. The calls that are then timed
# take about this long together.
_TURN = 5e-3  # seconds
# Relative difference of two directions up to which they count as the same.
TOLERANCE = 1e-3


class Compiled(NamedTuple):
  """A compiled program on its arguments."""

  run: Callable[[], Any]
  program: jax.stages.Compiled

  @property
  def megabytes(self) -> float:
    """The peak of its memory, by the compiler's own analysis."""
    return compilation.peak_megabytes(self.program)

  @property
  def gigaflops(self) -> float:
    """Operations, as XLA counts them; NaN where a backend does not."""
    counted = self.program.cost_analysis() or {}
    return float(counted.get('flops', math.nan) / 1e9)


def compiled(function: Callable[..., Any], *arguments: Any) -> Compiled:
  """Compiles a function for its arguments."""
  program = jax.jit(function).lower(*arguments).compile()
  return Compiled(functools.partial(program, *arguments), program)


def ready(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
  """A call of a function that is compiled for its arguments."""
  return compiled(function, *arguments).run


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
  """A rule of ours, and the same rule of a peer that has it."""

  ours: Times
  theirs: Times | None = None
  difference: float = math.nan  # of the directions, relative to the longer one

  @property
  def ratio(self) -> float:
    """Their time divided by ours: the median over the rounds."""
    return math.nan if self.theirs is None else ratio(self.theirs, self.ours)

  @property
  def ratio_of_fastest(self) -> float:
    """The same for the fastest call of each, which load disturbs least."""
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
    repeats: the number of rounds. The programs' order is reversed in every
      other one.
    seconds: no round but the first two begins after this time.
    warm: whether each timed call comes after one that is not timed. If not, a
      long program finds the caches as the one before it left them, but the
      first and the last one find their own in every other round: a difference
      of one per cent, where that matters.
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
    for name in programs if turn % 2 else reversed(list(programs)):
      program = programs[name]
      if warm or calls[name] > 1:
        _seconds_of(program)
      each[name].append([_seconds_of(program) for _ in range(calls[name])])
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
  if theirs is None:
    return Comparison(interleaved({'ours': ours.run}, repeats, seconds)['ours'])
  programs = {'ours': ours.run, 'theirs': theirs.run}
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
  """The table of numbers in `unit`, ms or us, a row per rule.

  If the directions of a row differ, it ends in the known reason.
  """
  scale = {'ms': 1e3, 'us': 1e6}[unit]
  rows = {}
  for name, each in comparisons.items():
    row = {f'ours, {unit}': f'{scale * each.ours.median:.2f}'}
    row['rounds'] = f'{len(each.ours.rounds)}'
    if each.theirs is not None:
      is_same = each.difference <= TOLERANCE
      row |= {
        'theirs': f'{scale * each.theirs.median:.2f}',
        'ratio': f'{each.ratio:.2f}',
        'fastest': f'{each.ratio_of_fastest:.2f}',
        'difference': f'{each.difference:.1e}',
        'reason': '' if is_same else reasons.get(name) or 'DIFFERS',
      }
    rows[name] = row
  return tables.of_rows('rule', rows)


def ratios(taken: Mapping[str, Times], references: Mapping[str, str]) -> str:
  """The table of milliseconds, and of ratios to the reference of each."""
  rows = {}
  for name, times in taken.items():
    to = references[name]
    share = f'{ratio(times, taken[to]):.2f}'
    rows[name] = {'ms': f'{1e3 * times.median:.3f}', 'ratio': share, 'to': to}
  return tables.of_rows('program', rows)


def beside_the_first(
  corner: str, programs: Mapping[str, Compiled], repeats: int, **options: Any
) -> str:
  """The table of milliseconds and megabytes, also relative to the first.

  The options are those of `interleaved`.
  """
  runs = {name: one.run for name, one in programs.items()}
  taken = interleaved(runs, repeats, **options)
  first = next(iter(programs))
  least = programs[first].megabytes
  rows = {}
  for name, times in taken.items():
    megabytes = programs[name].megabytes
    rows[name] = {
      'ms': f'{1e3 * times.median:.1f}',
      f'x {first}': f'{ratio(times, taken[first]):.2f}',
      'peak, MB': f'{megabytes:.1f}',
      f'peak, x {first}': f'{megabytes / least:.2f}',
    }
  return tables.of_rows(corner, rows)


def summary(comparisons: Mapping[str, Comparison]) -> str:
  """The median ratio, and the least one with the name of its comparison."""
  parts = []
  for attribute in ('ratio', 'ratio_of_fastest'):
    found = {k: getattr(each, attribute) for k, each in comparisons.items()}
    least = min(found, key=found.__getitem__)
    median = np.median(list(found.values()))
    parts.append(f'median {median:.2f}, least {found[least]:.2f} ({least})')
  return '; of the fastest calls: '.join(parts)


def machine() -> str:
  """Where and with what is timed, and how busy it is."""
  return (
    f'{jax.devices()[0].device_kind}, jax {jax.__version__},'
    f' {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}'
  )
