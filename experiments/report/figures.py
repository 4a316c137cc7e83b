"""The figures of comparisons, sweeps and studies."""

import collections
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

from experiments.evaluate import statistics
from experiments.report import measures
from experiments.report import tables
from experiments.report.results import Results

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = (
  *('#000000', '#E69F00', '#56B4E9', '#009E73'),
  *('#D55E00', '#CC79A7', '#0072B2', '#F0E442'),
)
_MARKERS = ('o', 's', '^', 'D')  # the next one when colours are used up
_COLUMNS = 5  # of recipes side by side, at most
# Any: Matplotlib types its parameters one by one.
_STYLE: dict[Any, Any] = {
  'font.size': 9,
  'axes.titlesize': 10,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.3,
}


def outputs(results: Results, path: pathlib.Path) -> None:
  """Draws each recipe's scores, whole and with sensors missing or noisy."""
  measure, metric, names = results.measure, results.primary, results.modalities
  scores = results.scores
  some = next(iter(scores.values()))
  noise = [name for name in some if name.startswith('noise/')]
  panels = {
    f'{tables.capital(measure.words)} of each output': {
      name: f'{metric}/{name}' for name in ('fused', *names)
    },
    f'Fused {measure.words} with a sensor missing, or noise on all': {
      **{f'no\n{name}': f'missing/{name}' for name in names},
      **{name.replace('/', '\n'): name for name in noise},
    },
  }
  # Wide enough that the points of all recipes stay apart.
  width = max(11, 0.05 * len(scores) * (2 * len(some) + 2))
  size = (min(width, 18), 3.6 if len(scores) < 8 else 4.4)
  with _canvas(path, size) as canvas:
    grid = canvas.subplots(1, 2)
    for axes, (title, columns) in zip(grid, panels.items(), strict=True):
      axes.set(title=title, ylabel=f'test {measure.label}')
      axes.set_xticks(range(len(columns)), list(columns))
      axes.grid(visible=False, axis='x')
      for i, (recipe, values) in enumerate(scores.items()):
        places = np.arange(len(columns)) + 0.7 * ((i + 0.5) / len(scores) - 0.5)
        points = [measure.scaled(values[name]) for name in columns.values()]
        look = {'markersize': 4.5, 'capsize': 2, 'linestyle': ''}
        _draw(axes, places, points, i, label=recipe, **look)
    _legend(canvas)


def curves(
  results: Results, values: Mapping[str, npt.NDArray[Any]], path: pathlib.Path
) -> None:
  """Draws losses and weights over training, a column a recipe.

  The values are `losses/<recipe>` and `weights/<recipe>`, [seeds, steps, K], of
  the fused output first. Where there is `conflicting/<recipe>`, [seeds, steps],
  the share of pairs of gradients that conflict is drawn below: of each step
  thin, and thick the mean of the last steps, a twentieth of the training.
  """
  recipes, objectives = list(results.variants), ['fused', *results.modalities]
  rows = {
    'losses': 'loss, mean over seeds',
    'weights': 'weight, mean over seeds',
    **({'conflicting': 'share of conflicts'} if conflicts(values) else {}),
  }
  bands = math.ceil(len(recipes) / _COLUMNS)
  columns, height = math.ceil(len(recipes) / bands), bands * len(rows)
  with _canvas(path, (2.6 * columns + 1, 2.3 * height)) as canvas:
    grid = canvas.subplots(height, columns, sharex=True, squeeze=False)
    for i, (kind, label) in enumerate(rows.items()):
      panels = grid[i :: len(rows)].flatten()
      for axes in panels[1:]:
        axes.sharey(panels[0])
      for axes in panels[len(recipes) :]:
        axes.set_visible(False)
      for axes, recipe in zip(panels, recipes, strict=False):
        if kind == 'conflicting':
          _draw_conflicts(axes, values[f'{kind}/{recipe}'])
          continue
        means = np.mean(values[f'{kind}/{recipe}'], 0)
        steps = np.arange(1, len(means) + 1)
        for k, objective in enumerate(objectives):
          look = {'color': _COLOURS[k % len(_COLOURS)], 'label': objective}
          axes.plot(steps, means[:, k], linewidth=0.9 if k else 1.5, **look)
        if kind == 'losses':
          axes.set(title=recipe, yscale='log')
      for axes in grid[i :: len(rows), 0]:
        axes.set_ylabel(label)
    for axes in grid[len(rows) - 1 :: len(rows)].flatten():
      axes.set_xlabel('step')
    _legend(canvas)


def conflicts(values: Mapping[str, npt.NDArray[Any]]) -> bool:
  """Whether curves tell how many gradients conflict."""
  return any(
    name.startswith('conflicting/') and not np.all(np.isnan(values[name]))
    for name in values
  )


def lines(
  columns: Mapping[tuple[str, float], Mapping[str, measures.Column]],
  axis: str | None,
  subject: str,
  path: pathlib.Path,
) -> None:
  """Draws measures of all recipes over what settings differ in.

  The columns are (family, place on the axis) -> measure -> its values of each
  recipe: a row of panels a family, a column a measure. The axis is what the
  place is; None: what the family is named after. The subject is drawn thick. Of
  more recipes than colours those of `_highlighted` have one; the others are
  grey, and may lie outside of a panel.
  """
  highlighted = _highlighted(columns, subject)
  families = list(dict.fromkeys(family for family, _ in columns))
  some = next(iter(columns.values()))
  number = len(families)
  size = (3.8 * len(some), 3.0 * number + 0.6)
  with _canvas(path, size, 130, **{'axes.titlesize': 9}) as canvas:
    grid = canvas.subplots(number, len(some), sharex='row', squeeze=False)
    for row, family in zip(grid, families, strict=True):
      places = sorted(place for one, place in columns if one == family)
      for axes, (name, (measure, values)) in zip(
        row, some.items(), strict=True
      ):
        axes.set(title=f'{family}: {name}', xlabel=axis or family)
        axes.set_ylabel(f'test {measure.label}')
        if len(places) > 1:
          axes.set_xscale('log')
        axes.set_xticks(places, [f'{place:g}' for place in places], minor=False)
        axes.minorticks_off()
        of_place = {k: columns[family, k][name].values for k in places}
        for recipe in (
          *highlighted,
          *(k for k in values if k not in highlighted),
        ):
          # A setting may lack a recipe.
          there = [place for place in places if recipe in of_place[place]]
          if not there:
            continue
          points = [measure.scaled(of_place[k][recipe]) for k in there]
          look = {'linewidth': 0.9, 'markersize': 3.5, 'alpha': 0.75}
          if recipe == subject:
            look = {'linewidth': 2.2, 'markersize': 5, 'zorder': 3}
          if recipe in highlighted:
            i = highlighted.index(recipe)
            _draw(axes, there, points, i, label=recipe, **look)
          else:
            limits = axes.get_ylim()
            means = [np.mean(one) for one in points]
            axes.plot(there, means, color='0.8', linewidth=0.7, zorder=1)
            axes.set_ylim(limits)
    _legend(canvas)


def _highlighted(
  columns: Mapping[tuple[str, float], Mapping[str, measures.Column]],
  subject: str,
) -> list[str]:
  """The recipes with a colour: the reference, the subject, the often best."""
  found = [one for of_place in columns.values() for one in of_place.values()]
  recipes = dict.fromkeys(name for one in found for name in one.values)
  best: collections.Counter[str] = collections.Counter()
  for measure, values in found:
    first, _ = statistics.ties(values, measure.higher_is_better)
    best[first] += 1
  often = [name for name, _ in best.most_common()]
  order = dict.fromkeys([next(iter(recipes)), subject, *often, *recipes])
  some = list(order)[: len(_COLOURS)]
  return [name for name in recipes if name in some]


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

  The panels are what is scored -> scores, [rows, columns]; `rows` and `columns`
  are what changes along them, and its values; the cell `marked` is framed.
  """
  # Wide enough that numbers of four digits do not touch.
  width = len(panels) * max(3.2, 0.62 * len(columns[1]) + 1.6)
  size = (width, max(2.6, 0.45 * len(rows[1]) + 1.3))
  with _canvas(path, size, **{'axes.grid': False}) as canvas:
    grid = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, scores) in zip(grid, panels.items(), strict=True):
      scores = measure.scaled(scores)
      cmap = 'viridis' if measure.higher_is_better else 'viridis_r'
      image = axes.imshow(scores, cmap=cmap, aspect='auto')
      canvas.colorbar(image, ax=axes)
      for place, score in np.ndenumerate(scores):
        text = f'{score:.1f}' if measure.is_share else f'{score:.3f}'
        is_bright = np.dot(image.to_rgba(score)[:3], (0.3, 0.6, 0.1)) > 0.45
        look = {'color': 'black' if is_bright else 'white'}
        look['fontweight'] = 'bold' if place == marked else 'normal'
        axes.text(*reversed(place), text, ha='center', va='center', **look)
      corner = (marked[1] - 0.5, marked[0] - 0.5)
      frame: dict[str, Any] = {'edgecolor': _COLOURS[4], 'linewidth': 2.5}
      axes.add_patch(
        patches.Rectangle(corner, 1, 1, fill=False, clip_on=False, **frame)
      )
      axes.spines[:].set_visible(False)
      axes.set(title=f'Test {measure.label}: {title}')
      axes.set(xlabel=columns[0], ylabel=rows[0])
      axes.set_xticks(range(len(columns[1])), columns[1])
      axes.set_yticks(range(len(rows[1])), rows[1])


@contextlib.contextmanager
def _canvas(
  path: pathlib.Path, size: tuple[float, float], dpi: int = 150, **style: Any
) -> Iterator[figure.Figure]:
  """A figure in our style, saved in the end."""
  with mpl.rc_context(_STYLE | style):
    canvas = figure.Figure(figsize=size, layout='constrained', dpi=dpi)
    yield canvas
    canvas.savefig(path)


def _draw(
  axes: Any, places: Any, values: Sequence[Any], i: int, **look: Any
) -> None:
  """Means and standard errors of values, each [seeds], of the i-th recipe."""
  means, errors = zip(*map(statistics.estimate, values), strict=True)
  look['marker'] = _MARKERS[i // len(_COLOURS) % len(_MARKERS)]
  look['color'] = _COLOURS[i % len(_COLOURS)]
  axes.errorbar(places, means, yerr=errors, **look)


def _draw_conflicts(axes: Any, shares: npt.NDArray[Any]) -> None:
  """The share of pairs in conflict, [seeds, steps]; NaN says nothing."""
  axes.set_ylim(-0.03, 1.03)
  if np.all(np.isnan(shares)):  # a rule that saw no gradients
    axes.grid(visible=False)
    axes.tick_params(axis='y', length=0)
    return
  means = np.mean(shares, 0)
  steps = np.arange(1, len(means) + 1)
  width = max(1, len(means) // 20)
  recent = np.convolve(means, np.full(width, 1 / width), 'valid')
  axes.plot(steps, means, linewidth=0.6, color=_COLOURS[0], alpha=0.25)
  axes.plot(steps[width - 1 :], recent, linewidth=1.5, color=_COLOURS[0])


def _legend(canvas: figure.Figure) -> None:
  """One legend below all panels, which share their labels."""
  handles, labels = canvas.axes[0].get_legend_handles_labels()
  look: dict[str, Any] = {'loc': 'outside lower center', 'frameon': False}
  canvas.legend(handles, labels, ncols=min(len(labels), 8), **look)
