"""Trains and scores many variants of one configuration."""

import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import config_dict

from experiments.core import data
from experiments.core import engine
from experiments.core import grouping
from experiments.core import runs
from experiments.core import scoring
from experiments.core import together
from experiments.core import variants as variants_lib

Rows = list[dict[str, Any]]


def check(
  config: config_dict.ConfigDict, variants: Sequence[variants_lib.Variant]
) -> None:
  """Refuses what cannot be swept, before anything is trained.

  Raises:
    ValueError: if there is such a variant, or each run is to be on many
      devices.
  """
  together.check_single(config)
  grouping.check(config, variants)


def run(
  config: config_dict.ConfigDict,
  variants: Sequence[variants_lib.Variant],
  directory: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None,
) -> tuple[Rows, list[dict[str, Any]]]:
  """Trains and scores all variants, program by program.

  Args:
    config: that they change, with `num_seeds`.
    variants: of the same keys.
    directory: whose `programs/<number>` are written, or gone on from.
    manual_dir: the folder with the data set's downloaded files.

  Returns:
    The rows of results in the order of the variants; and for each program the
    `keys` whose values it has as arguments, and its `members`.
  """
  rows: dict[int, Rows] = {}
  programs: list[dict[str, Any]] = []
  for shared in grouping.with_same_data(config, variants):
    inputs = data.open_all(variants[shared[0]].of(config), manual_dir)
    for group in grouping.groups(config, variants, shared, inputs[0]):
      programs.append({'keys': group.traced, 'members': group.members})
      place = directory / 'programs' / f'{len(programs)}'
      members = [variants[i] for i in group.members]
      for row in _results(group, members, inputs, place):
        member = group.members[row.pop('member')]
        rows.setdefault(member, []).append(row)
    for one in inputs:
      one.train.close()
  return list(itertools.chain(*(rows[i] for i in sorted(rows)))), programs


def _results(
  group: grouping.Group,
  variants: Sequence[variants_lib.Variant],
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
) -> Rows:
  """The rows of a group, each with the place of its variant (`member`)."""
  path = directory / 'results.jsonl'
  if path.exists():
    return runs.read_lines(path)[1:]
  directory.mkdir(parents=True, exist_ok=True)
  config = group.config
  program = together.together(
    config, len(inputs), inputs[0].steps_per_epoch, group.values
  )
  course = engine.run(
    {'': program},
    inputs,
    directory,
    config,
    header=runs.header(config),
    label=f'program {directory.name}: {program.num_runs} runs',
  )
  labels = [
    {'member': i, 'variant': one.label, 'values': one.values}
    for i, one in enumerate(variants)
  ]
  found: Rows = []
  for split in ('validation', 'test'):
    scores = scoring.score(
      program,
      course.states[''],
      inputs,
      split,
      config,
      metrics=config.evaluation.metrics[:1],
      thorough=False,
    )
    found += scoring.rows(
      program, course.states[''], scores, split, labels, config.seed
    )
  runs.write_lines(path, [runs.header(config), *found])
  return found
