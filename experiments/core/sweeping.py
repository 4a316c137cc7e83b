"""Trains and scores many variants of one configuration."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import config_dict

from experiments.core import compilation
from experiments.core import data
from experiments.core import engine
from experiments.core import grouping
from experiments.core import runs
from experiments.core import scoring
from experiments.core import together
from experiments.core import variants as variants_lib

Rows = list[dict[str, Any]]


def run_all(
  config: config_dict.ConfigDict,
  variants: Sequence[variants_lib.Variant],
  directory: pathlib.Path,
  manual_dir: str | os.PathLike[str] | None,
) -> tuple[Rows, list[dict[str, Any]]]:
  """Trains and scores variants, whose keys may be those of `data`, too.

  It writes `programs` into the directory, or resumes from them.

  Returns:
    The rows on validation and test, in the order of the variants; and the
    programs, as `run` gives them.
  """
  rows: dict[int, Rows] = {}
  programs = []
  apart = grouping.with_same_data(config, variants)
  for number, members in enumerate(apart, start=1):
    some = [variants[i] for i in members]
    inputs = data.open_all(some[0].of(config), manual_dir)
    place = directory / 'programs' / f'{len(rows)}'
    label = f'data {number}/{len(apart)}, ' if len(apart) > 1 else ''
    found, made = run(config, some, inputs, place, label=label)
    for one in inputs:
      one.train.close()
    rows |= zip(members, found, strict=True)
    programs += [
      one | {'members': [members[i] for i in one['members']]} for one in made
    ]
  return [row for i in sorted(rows) for row in rows[i]], programs


def run(
  config: config_dict.ConfigDict,
  variants: Sequence[variants_lib.Variant],
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
  *,
  label: str = '',
  watched: bool = False,
) -> tuple[list[Rows], list[dict[str, Any]]]:
  """Trains and scores variants that see the same data, program by program.

  Each program has a folder in the directory, which is written or resumed from.
  Scores are of the primary metric: on validation and test after training or, if
  `watched`, on validation whenever a checkpoint is saved, in rows with the
  `step`.

  Returns:
    The rows of results of each variant; and for each program the `keys` whose
    values are its arguments, its `members`, and the `seconds` of training.
  """
  rows: list[Rows] = [[] for _ in variants]
  programs: list[dict[str, Any]] = []
  groups = grouping.groups(config, variants, inputs[0])
  for number, group in enumerate(groups, start=1):
    labels = [
      {'member': i, 'variant': variants[i].label, 'values': variants[i].values}
      for i in group.members
    ]
    found, seconds = _results(
      group,
      labels,
      inputs,
      directory / f'{number}',
      label=f'{label}program {number}/{len(groups)}',
      watched=watched,
    )
    compilation.release()
    for row in found:
      rows[row.pop('member')].append(row)
    programs.append(
      {'keys': group.traced, 'members': group.members, 'seconds': seconds}
    )
  return rows, programs


def _results(
  group: grouping.Group,
  labels: Sequence[dict[str, Any]],
  inputs: Sequence[data.Data],
  directory: pathlib.Path,
  *,
  label: str,
  watched: bool,
) -> tuple[Rows, float]:
  """The rows of a group, with the labels of its variants, and its seconds."""
  path = directory / 'results.jsonl'
  if path.exists():
    header, *rows = runs.read_lines(path)
    return rows, header['seconds']
  config = group.config
  program = together.together(
    config, len(inputs), inputs[0].steps_per_epoch, group.values
  )
  watch = None
  if watched:
    watch = scoring.Watch(
      {'': program}, {'': labels}, inputs, lambda *_: 'validation'
    )
  course = engine.run(
    {'': program},
    inputs,
    directory,
    config,
    label=f'{label}, {program.num_runs} runs',
    observer=watch,
  )
  found: Rows = [] if watch is None else watch.rows
  for split in () if watched else ('validation', 'test'):
    found += scoring.rows(
      program, course.states[''], inputs, split, labels,
      metrics=config.evaluation.metrics[:1],
    )  # fmt: skip
  seconds = course.seconds_of('')
  runs.write_lines(path, [runs.header(config) | {'seconds': seconds}, *found])
  return found, seconds
