"""Figures of many recipes."""

import numpy as np
import pytest

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


@pytest.fixture
def draw(tmp_path, monkeypatch):
  """Function: draws lines, and returns their panel and its labels."""
  shown = []
  monkeypatch.setattr(
    figures.figure.Figure, 'savefig', lambda self, _: shown.append(self)
  )

  def drawn(columns, subject):
    figures.lines(columns, None, subject, tmp_path / 'lines.png')
    (axes,) = shown.pop().axes
    return axes, axes.get_legend_handles_labels()[1]

  return drawn


def test_reference_subject_and_the_best_recipes_have_colours(draw):
  for metric in ('accuracy', ERROR):
    columns = columns_of('j', 'k', 'j', metric=metric)
    for one in columns.values():  # the reference has diverged
      one['fused'].values['a'] = np.full(2, np.nan)
    _, found = draw(columns, 'i')
    assert {'a', 'i', 'j', 'k'} < set(found) and len(found) == 8
    assert found == sorted(found)  # as they are compared
  # With fewer recipes, all of them.
  few = columns_of('b', 'b')
  for one in few.values():
    for name in set(NAMES) - set('abc'):
      one['fused'].values.pop(name, None)
  assert draw(few, 'c')[1] == ['a', 'b', 'c']


def test_other_recipes_are_grey_and_do_not_affect_the_range(draw):
  columns = columns_of('j', 'k')
  outlier = np.array([-9.0, -9.0])
  for one in columns.values():
    one['fused'].values['h'] = outlier  # no colour is left for it
  axes, labels = draw(columns, 'i')
  assert 'h' not in labels
  greys = [line for line in axes.lines if line.get_color() == '0.8']
  assert len(greys) == len(NAMES) - len(labels)
  assert min(min(line.get_ydata()) for line in greys) == -900
  assert axes.get_ylim()[0] > 0
