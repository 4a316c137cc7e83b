"""Chooses among candidates on validation; ties go to the simplest."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.evaluate import readouts
from experiments.evaluate import statistics


class Choice(NamedTuple):
  """What is chosen of a recipe."""

  candidate: int  # its place among the candidates; 0 is the default
  readout: str  # the output that is read
  step: int  # at which training is stopped
  mean: float  # on validation, over seeds
  error: float  # its standard error; NaN for a single seed
  num_tied: int  # how many options tie with the best


def choose(
  candidates: Sequence[Mapping[str, Any]],
  steps: Sequence[int],
  *,
  stopping: bool,
  higher_is_better: bool,
) -> Choice:
  """Chooses a candidate, its read-out and, if stopping, its last step.

  An option is a candidate, a read-out and a step. The best one has the best
  mean over seeds. Options that differ from it, seed by seed, by no more than
  one standard error of that difference tie with it. Of these the simplest is
  chosen: the default candidate goes before others; then the read-out that comes
  first in `readouts.NAMES`; then the longest training; then the candidate that
  was drawn first.

  Args:
    candidates: each with `validation`, read-out -> scores [seeds, steps] over
      the same seeds. The first is the default.
    steps: at which they were scored, in order.
    stopping: whether training may stop before the last of them.
    higher_is_better: the metric's direction.

  Examples:
    >>> scores = [[[0.5], [0.5]], [[0.6], [0.4]], [[0.7], [0.69]]]
    >>> tried = [{'validation': {'fused': one}} for one in scores]
    >>> options = {'stopping': False, 'higher_is_better': True}
    >>> choose(tried, [100], **options).candidate
    2
    >>> choose(tried[:2], [100], **options).candidate
    0
  """
  places = range(len(steps))
  options: dict[tuple[int, str, int], npt.NDArray[Any]] = {
    (i, readout, place): np.asarray(scores)[:, place]
    for i, candidate in enumerate(candidates)
    for readout, scores in candidate['validation'].items()
    for place in (places if stopping else places[-1:])
  }
  first, tied = statistics.ties(options, higher_is_better)

  def complexity(option: tuple[int, str, int]) -> tuple[Any, ...]:
    i, readout, place = option
    return i > 0, readouts.NAMES.index(readout), -place, i

  taken = min([first, *tied], key=complexity)
  i, readout, place = taken
  return Choice(
    i, readout, steps[place], *statistics.estimate(options[taken]), len(tied)
  )
