"""Redrawn splits."""

import itertools

import numpy as np
import pytest

from data_pipelines import redrawing
from data_pipelines import sources
from experiments.core import data
from tests.running import smoke


def rows_of(source):
  return {int(source[i]['row']) for i in range(len(source))}


def test_rows_are_redrawn_with_the_same_share_of_each_class():
  drawn = [
    redrawing.splits('handwritten', config='two', seed=seed) for seed in (0, 1)
  ]
  for one in drawn:
    assert {k: len(v) for k, v in one.items()} == {
      'train': 1000, 'validation': 200, 'test': 800,
    }  # fmt: skip
    assert set.union(*map(rows_of, one.values())) == set(range(2000))
    labels = [int(one['validation'][i]['label']) for i in range(200)]
    assert np.bincount(labels).tolist() == [20] * 10
  shared = rows_of(drawn[0]['test']) & rows_of(drawn[1]['test'])
  assert 250 < len(shared) < 390  # 320 of 800 by chance


class Groups:
  """A data set of 40 groups of three rows, with one or two classes each."""

  @staticmethod
  def open_source(name, *, config, split, **_):
    del name, config
    places = {'train': range(60), 'validation': range(60, 90)}
    return [
      {'row': np.int32(i), 'group': np.int32(i // 3), 'label': i // 5 % 2}
      for i in places.get(split, range(90, 120))
    ]


@pytest.mark.parametrize('seed', range(4))
def test_no_group_is_in_two_splits(monkeypatch, seed):
  monkeypatch.setattr(sources, 'builder_of', lambda *_: Groups)
  monkeypatch.setattr(sources, 'open_source', Groups.open_source)
  drawn = redrawing.splits('made_up', config=None, seed=seed)
  groups = {
    split: {int(row['group']) for row in rows} for split, rows in drawn.items()
  }
  for one, other in itertools.combinations(groups.values(), 2):
    assert not one & other
  assert sum(map(len, groups.values())) == 40
  assert abs(len(drawn['train']) - 60) <= 3


def test_a_run_standardises_by_its_own_training_rows():
  batches = []
  for seed in (0, 1):
    config = smoke(seed=seed)
    config.data.redraw = True
    config.data.batch_size = 1000
    opened = data.open_data(config, seed)
    batch = next(opened.train)
    np.testing.assert_allclose(np.mean(batch['pix'], 0), 0, atol=1e-4)
    rows = set(batch['row'].tolist())
    test = opened.evaluation('test')
    tested = {row for one in test for row in one['row'][one['mask']]}
    assert not rows & tested and len(rows | tested) == 1800
    again = data.open_data(config, seed)
    assert again.fingerprints() == opened.fingerprints()
    batches.append((rows, opened.fingerprints()['test']))
  assert batches[0][0] != batches[1][0] and batches[0][1] != batches[1][1]
