"""The figures of a comparison and of a sweep."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import figure
from matplotlib import patches

from experiments.evaluation import statistics

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = (
  '#000000',
  '#E69F00',
  '#56B4E9',
  '#009E73',
  '#D55E00',
  '#CC79A7',
  '#0072B2',
  '#F0E442',
)
_MARKERS = ('o', 's', '^', 'D')  # the next one when colours are used up
_COLUMNS = 5  # of methods side by side
# Any: Matplotlib types its parameters one by one.
_STYLE: dict[Any, Any] = {
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.3,
}


def accuracy(
  scores: Mapping[str, Mapping[str, npt.NDArray[Any]]],
  modalities: Sequence[str],
  metric: str,
  path: pathlib.Path,
) -> None:
  """Draws each method's scores, whole and with sensors missing or noisy.

  Args:
    scores: method -> score -> values in 0..1, [seeds].
    modalities: their names.
    metric: the name of the primary metric.
    path: where the PNG goes.
  """
  words = metric.replace('_', ' ')
  some = next(iter(scores.values()))
  panels = {
    f'{words.capitalize()} of each output': {
      name: f'{metric}/{name}' for name in ('fused', *modalities)
    },
    f'Fused {words} with a sensor missing, or noise on all': {
      **{f'no\n{name}': f'missing/{name}' for name in modalities},
      **{
        f'noise\n{name.removeprefix("noise/")}': name
        for name in some
        if name.startswith('noise/')
      },
    },
  }
  with mpl.rc_context(_STYLE):
    # Wide enough that the points of all methods stay apart.
    size = (max(11, 0.05 * len(scores) * (2 * len(some) + 2)), 3.6)
    size = (min(size[0], 18), 3.6 if len(scores) < 8 else 4.4)
    canvas = figure.Figure(figsize=size, layout='constrained', dpi=150)
    for axes, (title, columns) in zip(
      canvas.subplots(1, 2), panels.items(), strict=True
    ):
      for i, (method, values) in enumerate(scores.items()):
        offset = 0.7 * ((i + 0.5) / len(scores) - 0.5)
        points = [
          statistics.estimate(100 * values[name]) for name in columns.values()
        ]
        axes.errorbar(
          np.arange(len(points)) + offset,
          [point.mean for point in points],
          yerr=[point.error for point in points],
          fmt=_marker(i),
          markersize=4.5,
          capsize=2,
          color=_COLOURS[i % len(_COLOURS)],
          label=method,
        )
      axes.set_xticks(range(len(columns)), list(columns))
      axes.grid(visible=False, axis='x')
      axes.set_title(title, fontsize=10)
      axes.set_ylabel(f'test {words}, %')
    _legend(canvas)
    canvas.savefig(path)


def curves(
  values: Mapping[str, npt.NDArray[Any]],
  methods: Sequence[str],
  objectives: Sequence[str],
  path: pathlib.Path,
) -> None:
  """Draws losses and weights over training, a column a method.

  Args:
    values: `losses/<method>` and `weights/<method>`, [seeds, steps, K].
    methods: their names.
    objectives: the names of the K objectives, the primary one first.
    path: where the PNG goes.
  """
  columns = min(len(methods), _COLUMNS)
  rows = math.ceil(len(methods) / columns)
  kinds = ('losses', 'weights')
  with mpl.rc_context(_STYLE):
    canvas = figure.Figure(
      figsize=(2.6 * columns + 1, 4.6 * rows), layout='constrained', dpi=150
    )
    grid = canvas.subplots(2 * rows, columns, sharex=True, squeeze=False)
    for kind, part in zip(kinds, (grid[0::2], grid[1::2]), strict=True):
      panels = part.flatten()
      for axes in panels[1:]:
        axes.sharey(panels[0])
      for axes in panels[len(methods) :]:
        axes.set_visible(False)
      for axes, method in zip(panels, methods, strict=False):
        runs = values[f'{kind}/{method}']
        steps = np.arange(1, runs.shape[1] + 1)
        for i, objective in enumerate(objectives):
          axes.plot(
            steps,
            np.mean(runs[:, :, i], 0),
            color=_COLOURS[i % len(_COLOURS)],
            linewidth=1.5 if i == 0 else 0.9,
            label=objective,
          )
        if kind == 'losses':
          axes.set_yscale('log')
          axes.set_title(method, fontsize=10)
        else:
          axes.set_xlabel('step')
    for row in range(rows):
      grid[2 * row, 0].set_ylabel('loss, mean over seeds')
      grid[2 * row + 1, 0].set_ylabel('weight, mean over seeds')
    _legend(canvas)
    canvas.savefig(path)


def lines(
  values: Mapping[
    tuple[str, float], Mapping[str, Mapping[str, npt.NDArray[Any]]]
  ],
  axis: str | None,
  subject: str,
  path: pathlib.Path,
) -> None:
  """Draws measures of all methods over what settings differ in.

  Args:
    values: (family, place on the axis) -> measure -> method -> values in 0..1,
      [seeds]. A row of panels a family, a column a measure.
    axis: what the place is; None: what the family is named after.
    subject: the method that is drawn thick.
    path: where the PNG goes.
  """
  families = list(dict.fromkeys(family for family, _ in values))
  measures = list(next(iter(values.values())))
  methods = list(next(iter(values.values()))[measures[0]])
  with mpl.rc_context(_STYLE):
    canvas = figure.Figure(
      figsize=(3.8 * len(measures), 3.0 * len(families) + 0.6),
      layout='constrained',
      dpi=130,
    )
    grid = canvas.subplots(
      len(families), len(measures), sharex='row', squeeze=False
    )
    for row, family in zip(grid, families, strict=True):
      places = sorted(place for one, place in values if one == family)
      for axes, measure in zip(row, measures, strict=True):
        for i, method in enumerate(methods):
          points = [
            statistics.estimate(100 * values[family, place][measure][method])
            for place in places
          ]
          is_subject = method == subject
          axes.errorbar(
            places,
            [point.mean for point in points],
            yerr=[point.error for point in points],
            fmt=_marker(i) + ('-' if i < len(_COLOURS) else '--'),
            linewidth=2.2 if is_subject else 0.9,
            markersize=5 if is_subject else 3.5,
            alpha=1 if is_subject else 0.75,
            zorder=3 if is_subject else 2,
            color=_COLOURS[i % len(_COLOURS)],
            label=method,
          )
        if len(places) > 1:
          axes.set_xscale('log')
        axes.set_xticks(places, [f'{place:g}' for place in places], minor=False)
        axes.minorticks_off()
        axes.set_xlabel(axis or family)
        axes.set_title(f'{family}: {measure}', fontsize=9)
      row[0].set_ylabel('test accuracy, %')
    _legend(canvas)
    canvas.savefig(path)


def heat_map(
  panels: Mapping[str, npt.NDArray[Any]],
  *,
  rows: tuple[str, Sequence[str]],
  columns: tuple[str, Sequence[str]],
  marked: tuple[int, int],
  path: pathlib.Path,
) -> None:
  """Draws scores over a grid of two values, a panel a score.

  Args:
    panels: title -> scores, [rows, columns].
    rows: what changes from row to row, and its values.
    columns: what changes from column to column, and its values.
    marked: the row and column of the cell to frame.
    path: where the PNG goes.
  """
  with mpl.rc_context(_STYLE | {'axes.grid': False}):
    # Wide enough that numbers of four digits do not touch.
    size = (max(3.2, 0.62 * len(columns[1]) + 1.6), 0.45 * len(rows[1]) + 1.3)
    canvas = figure.Figure(
      figsize=(len(panels) * size[0], max(2.6, size[1])),
      layout='constrained',
      dpi=150,
    )
    grid = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, scores) in zip(grid, panels.items(), strict=True):
      image = axes.imshow(scores, cmap='viridis', aspect='auto')
      middle = (np.nanmin(scores) + np.nanmax(scores)) / 2
      for (row, column), score in np.ndenumerate(scores):
        axes.text(
          column,
          row,
          f'{score:.1f}',
          ha='center',
          va='center',
          color='black' if score > middle else 'white',
          fontweight='bold' if (row, column) == marked else 'normal',
        )
      axes.add_patch(
        patches.Rectangle(
          (marked[1] - 0.5, marked[0] - 0.5),
          1,
          1,
          fill=False,
          edgecolor=_COLOURS[4],
          linewidth=2.5,
          clip_on=False,
        )
      )
      axes.spines[:].set_visible(False)
      axes.set_xticks(range(len(columns[1])), columns[1])
      axes.set_yticks(range(len(rows[1])), rows[1])
      axes.set_xlabel(columns[0])
      axes.set_ylabel(rows[0])
      axes.set_title(title, fontsize=10)
      canvas.colorbar(image, ax=axes)
    canvas.savefig(path)


def _marker(i: int) -> str:
  return _MARKERS[i // len(_COLOURS) % len(_MARKERS)]


def _legend(canvas: figure.Figure) -> None:
  """One legend below all panels, which share their labels."""
  handles, labels = canvas.axes[0].get_legend_handles_labels()
  canvas.legend(
    handles,
    labels,
    ncols=min(len(labels), 8),
    loc='outside lower center',
    frameon=False,
  )
