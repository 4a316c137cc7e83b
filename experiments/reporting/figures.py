"""The figures of comparisons, sweeps and studies."""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import figure
from matplotlib import patches

from experiments.evaluation import statistics
from experiments.reporting import measures
from experiments.reporting import tables

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = (
  *('#000000', '#E69F00', '#56B4E9', '#009E73'),
  *('#D55E00', '#CC79A7', '#0072B2', '#F0E442'),
)
_MARKERS = ('o', 's', '^', 'D')  # the next one when colours are used up
_COLUMNS = 5  # of recipes side by side
_FRAME: dict[str, Any] = {
  'fill': False,
  'edgecolor': _COLOURS[4],
  'linewidth': 2.5,
  'clip_on': False,
}
# Any: Matplotlib types its parameters one by one.
_STYLE: dict[Any, Any] = {
  'font.size': 9,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.3,
}


def outputs(
  scores: Mapping[str, Mapping[str, measures.Values]],
  modalities: Sequence[str],
  metric: str,
  path: pathlib.Path,
) -> None:
  """Draws each recipe's scores, whole and with sensors missing or noisy.

  Args:
    scores: recipe -> score -> values, [seeds].
    modalities: their names.
    metric: the name of the primary metric.
    path: where the PNG goes.
  """
  measure = measures.Measure.of(metric)
  some = next(iter(scores.values()))
  noise = [name for name in some if name.startswith('noise/')]
  panels = {
    f'{tables.capital(measure.words)} of each output': {
      name: f'{metric}/{name}' for name in ('fused', *modalities)
    },
    f'Fused {measure.words} with a sensor missing, or noise on all': {
      **{f'no\n{name}': f'missing/{name}' for name in modalities},
      **{name.replace('/', '\n'): name for name in noise},
    },
  }
  # Wide enough that the points of all recipes stay apart.
  width = max(11, 0.05 * len(scores) * (2 * len(some) + 2))
  size = (min(width, 18), 3.6 if len(scores) < 8 else 4.4)
  with _canvas(path, size) as canvas:
    for axes, (title, columns) in zip(
      canvas.subplots(1, 2), panels.items(), strict=True
    ):
      for i, (recipe, values) in enumerate(scores.items()):
        offset = 0.7 * ((i + 0.5) / len(scores) - 0.5)
        _draw_points(
          axes,
          np.arange(len(columns)) + offset,
          [measure.scaled(values[name]) for name in columns.values()],
          i,
          fmt=_marker(i),
          markersize=4.5,
          capsize=2,
          label=recipe,
        )
      axes.set_xticks(range(len(columns)), list(columns))
      axes.grid(visible=False, axis='x')
      axes.set_title(title, fontsize=10)
      axes.set_ylabel(f'test {measure.label}')
    _legend(canvas)


def curves(
  values: Mapping[str, npt.NDArray[Any]],
  recipes: Sequence[str],
  objectives: Sequence[str],
  path: pathlib.Path,
) -> None:
  """Draws losses and weights over training, a column a recipe.

  Args:
    values: `losses/<recipe>` and `weights/<recipe>`, [seeds, steps, K].
    recipes: their names.
    objectives: the names of the K objectives, the primary one first.
    path: where the PNG goes.
  """
  columns = min(len(recipes), _COLUMNS)
  rows = math.ceil(len(recipes) / columns)
  with _canvas(path, (2.6 * columns + 1, 4.6 * rows)) as canvas:
    grid = canvas.subplots(2 * rows, columns, sharex=True, squeeze=False)
    for i, kind in enumerate(('losses', 'weights')):
      panels = grid[i::2].flatten()
      for axes in panels[1:]:
        axes.sharey(panels[0])
      for axes in panels[len(recipes) :]:
        axes.set_visible(False)
      for axes, recipe in zip(panels, recipes, strict=False):
        means = np.mean(values[f'{kind}/{recipe}'], 0)
        steps = np.arange(1, len(means) + 1)
        for k, objective in enumerate(objectives):
          axes.plot(
            steps,
            means[:, k],
            color=_COLOURS[k % len(_COLOURS)],
            linewidth=1.5 if k == 0 else 0.9,
            label=objective,
          )
        if kind == 'losses':
          axes.set_yscale('log')
          axes.set_title(recipe, fontsize=10)
        else:
          axes.set_xlabel('step')
      for axes in grid[i::2, 0]:
        name = {'losses': 'loss', 'weights': 'weight'}[kind]
        axes.set_ylabel(f'{name}, mean over seeds')
    _legend(canvas)


def lines(
  columns: Mapping[tuple[str, float], Mapping[str, measures.Column]],
  axis: str | None,
  subject: str,
  path: pathlib.Path,
) -> None:
  """Draws measures of all recipes over what settings differ in.

  Args:
    columns: (family, place on the axis) -> measure -> its values of each
      recipe. A row of panels a family, a column a measure.
    axis: what the place is; None: what the family is named after.
    subject: the recipe that is drawn thick.
    path: where the PNG goes.
  """
  families = list(dict.fromkeys(family for family, _ in columns))
  some = next(iter(columns.values()))
  size = (3.8 * len(some), 3.0 * len(families) + 0.6)
  with _canvas(path, size, dpi=130) as canvas:
    grid = canvas.subplots(
      len(families), len(some), sharex='row', squeeze=False
    )
    for row, family in zip(grid, families, strict=True):
      places = sorted(place for one, place in columns if one == family)
      for axes, (name, (measure, values)) in zip(
        row, some.items(), strict=True
      ):
        for i, recipe in enumerate(values):
          of_recipe = [
            columns[family, place][name].values[recipe] for place in places
          ]
          is_subject = recipe == subject
          _draw_points(
            axes,
            places,
            [measure.scaled(one) for one in of_recipe],
            i,
            fmt=_marker(i) + ('-' if i < len(_COLOURS) else '--'),
            linewidth=2.2 if is_subject else 0.9,
            markersize=5 if is_subject else 3.5,
            alpha=1 if is_subject else 0.75,
            zorder=3 if is_subject else 2,
            label=recipe,
          )
        if len(places) > 1:
          axes.set_xscale('log')
        axes.set_xticks(places, [f'{place:g}' for place in places], minor=False)
        axes.minorticks_off()
        axes.set_xlabel(axis or family)
        axes.set_title(f'{family}: {name}', fontsize=9)
        axes.set_ylabel(f'test {measure.label}')
    _legend(canvas)


def heat_map(
  panels: Mapping[str, measures.Values],
  measure: measures.Measure,
  *,
  rows: tuple[str, Sequence[str]],
  columns: tuple[str, Sequence[str]],
  marked: tuple[int, int],
  path: pathlib.Path,
) -> None:
  """Draws test scores over a grid of two values; the brighter the better.

  Args:
    panels: what is scored -> scores, [rows, columns].
    measure: of the scores.
    rows: what changes from row to row, and its values.
    columns: what changes from column to column, and its values.
    marked: the row and column of the cell to frame.
    path: where the PNG goes.
  """
  # Wide enough that numbers of four digits do not touch.
  size = (max(3.2, 0.62 * len(columns[1]) + 1.6), 0.45 * len(rows[1]) + 1.3)
  size = (len(panels) * size[0], max(2.6, size[1]))
  with _canvas(path, size, **{'axes.grid': False}) as canvas:
    grid = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, scores) in zip(grid, panels.items(), strict=True):
      scores = measure.scaled(scores)
      cmap = 'viridis' if measure.higher_is_better else 'viridis_r'
      image = axes.imshow(scores, cmap=cmap, aspect='auto')
      for place, score in np.ndenumerate(scores):
        is_bright = np.dot(image.to_rgba(score)[:3], (0.3, 0.6, 0.1)) > 0.45
        axes.text(
          *reversed(place),
          f'{score:.1f}' if measure.is_share else f'{score:.3f}',
          ha='center',
          va='center',
          color='black' if is_bright else 'white',
          fontweight='bold' if place == marked else 'normal',
        )
      corner = (marked[1] - 0.5, marked[0] - 0.5)
      axes.add_patch(patches.Rectangle(corner, 1, 1, **_FRAME))
      axes.spines[:].set_visible(False)
      axes.set_xticks(range(len(columns[1])), columns[1])
      axes.set_yticks(range(len(rows[1])), rows[1])
      axes.set_xlabel(columns[0])
      axes.set_ylabel(rows[0])
      axes.set_title(f'Test {measure.label}: {title}', fontsize=10)
      canvas.colorbar(image, ax=axes)


@contextlib.contextmanager
def _canvas(
  path: pathlib.Path, size: tuple[float, float], dpi: int = 150, **style: Any
) -> Iterator[figure.Figure]:
  """A figure in our style, saved in the end."""
  with mpl.rc_context(_STYLE | style):
    canvas = figure.Figure(figsize=size, layout='constrained', dpi=dpi)
    yield canvas
    canvas.savefig(path)


def _draw_points(
  axes: Any,
  places: Any,
  values: Sequence[measures.Values],
  i: int,
  **look: Any,
) -> None:
  """Means and standard errors over seeds, of the i-th recipe."""
  points = [statistics.estimate(one) for one in values]
  axes.errorbar(
    places,
    [point.mean for point in points],
    yerr=[point.error for point in points],
    color=_COLOURS[i % len(_COLOURS)],
    **look,
  )


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
