"""Figures of many recipes."""

import numpy as np

from experiments.report import figures
from experiments.report import measures
from tests.experiments.report.made_up import ERROR

NAMES = tuple('abcdefghijkl')  # more than there are colours


def columns_of(*best, metric='accuracy'):
  """Makes a column for each setting and its best recipe; later ones lack l."""
  measure = measures.Measure.of(metric)
  ahead = 0.2 if measure.higher_is_better else -0.2
  columns = {}
  for place, name in enumerate(best, start=1):
    values = {k: np.array([0.5, 0.6]) for k in NAMES}
    values[name] = values[name] + ahead
    if place > 1:
      del values['l']
    columns['family', place] = {'fused': measures.Column(measure, values)}
  return columns


def test_reference_subject_and_the_best_recipes_have_colours():
  for metric in ('accuracy', ERROR):
    columns = columns_of('j', 'k', 'j', metric=metric)
    for one in columns.values():  # the reference has diverged
      one['fused'].values['a'] = np.full(2, np.nan)
    found = figures._highlighted(columns, 'i')
    assert {'a', 'i', 'j', 'k'} < set(found) and len(found) == 8
    assert found == sorted(found)  # as they are compared
  # With fewer recipes, all of them.
  few = {
    place: {
      name: column._replace(values={k: column.values[k] for k in 'abc'})
      for name, column in one.items()
    }
    for place, one in columns_of('b', 'b').items()
  }
  assert figures._highlighted(few, 'c') == ['a', 'b', 'c']


def test_other_recipes_are_grey_and_do_not_affect_the_range(
  tmp_path, monkeypatch
):
  shown = []
  monkeypatch.setattr(
    figures.figure.Figure, 'savefig', lambda self, _: shown.append(self)
  )
  columns = columns_of('j', 'k')
  outlier = np.array([-9.0, -9.0])
  for one in columns.values():
    one['fused'].values['h'] = outlier  # no colour is left for it
  figures.lines(columns, None, 'i', tmp_path / 'lines.png')
  (axes,) = shown[0].axes
  _, labels = axes.get_legend_handles_labels()
  assert labels == figures._highlighted(columns, 'i') and 'h' not in labels
  greys = [line for line in axes.lines if line.get_color() == '0.8']
  assert len(greys) == len(NAMES) - len(labels)
  assert min(min(line.get_ydata()) for line in greys) == -900
  assert axes.get_ylim()[0] > 0
