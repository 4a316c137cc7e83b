"""The transforms that apply views, alone and in the loader."""

import dataclasses
import inspect

import grain
import numpy as np
import pytest

from data_pipelines import audio
from data_pipelines import frames
from data_pipelines import loader
from data_pipelines import sequences
from data_pipelines import views


@dataclasses.dataclass(frozen=True)
class Noisy:
  """The sum of the stored values, and one draw in training."""

  source: str

  def __call__(self, element, random):
    total = np.asarray(element[self.source].sum(), np.float64)
    return total if random is None else total + random.random()


def stored(row):
  return {
    'audio': np.arange(row, row + 4, dtype=np.int16),
    'frames': np.array([b'1', b'2'], object),
    'caption': np.array('what is said', object),
    'label': np.array(row, np.int64),
  }


VIEWS = {'b': Noisy('audio'), 'a': Noisy('audio'), 'c': Noisy('audio')}


def test_an_element_has_the_views_and_what_is_kept_and_nothing_else():
  element = stored(3)
  for keep in [(), ('label',), ('caption', 'label')]:
    evaluated = views.EvaluationViews(VIEWS, keep).map(element)
    trained = views.TrainingViews(VIEWS, keep).random_map(
      element, np.random.default_rng(0)
    )
    assert evaluated.keys() == trained.keys() == {'a', 'b', 'c', *keep}
    assert evaluated['a'] == 3 + 4 + 5 + 6
    for name in keep:
      assert evaluated[name] is trained[name] is element[name]
  assert element.keys() == stored(3).keys()


def test_the_label_is_kept_unless_said_otherwise():
  assert views.EvaluationViews({}).map(stored(5)) == {'label': 5}
  training = views.TrainingViews({})
  assert training.random_map(stored(5), np.random.default_rng(0)) == {
    'label': 5
  }


def test_a_view_may_take_the_name_of_what_it_replaces():
  element = {'x': np.array([2.0, 4.0]), 'label': np.array(1)}
  evaluation = views.EvaluationViews({'x': views.Scaled('x', 4)})
  assert evaluation.map(element)['x'].tolist() == [0.5, 1]
  assert element['x'].tolist() == [2, 4]


def test_views_draw_in_the_order_of_their_names():
  orders = [VIEWS, dict(sorted(VIEWS.items())), dict(reversed(VIEWS.items()))]
  drawn = [
    views.TrainingViews(order).random_map(stored(1), np.random.default_rng(7))
    for order in orders
  ]
  random = np.random.default_rng(7)
  expected = {name: 10 + random.random() for name in 'abc'}
  for element in drawn:
    assert {name: element[name] for name in 'abc'} == expected


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'keep': ['label', 'text']}, r"no 'text'.*audio, caption, frames, label"),
    ({'views': {'x': views.Score('mood')}}, r"no 'mood'.*audio, caption"),
  ],
)
def test_a_missing_entry_is_named(changed, message):
  arguments = {'views': VIEWS} | changed
  with pytest.raises(ValueError, match=message):
    views.EvaluationViews(**arguments).map(stored(0))
  with pytest.raises(ValueError, match=message):
    views.TrainingViews(**arguments).random_map(
      stored(0), np.random.default_rng(0)
    )


@pytest.mark.parametrize('kind', [views.TrainingViews, views.EvaluationViews])
def test_a_name_is_a_views_or_kept_and_not_both(kind):
  with pytest.raises(ValueError, match=r"both for \['label'\]"):
    kind({'label': views.SevenClassLabel(), 'x': views.Score()})


def test_every_view_can_be_named_in_a_config():
  defined = {
    name: value
    for module in (audio, frames, sequences)
    for name, value in vars(module).items()
    if inspect.isclass(value) and value.__module__ == module.__name__
  }
  assert len(defined) == 12
  for name, value in defined.items():
    assert getattr(views, name) is value


def test_views_of_equal_options_are_equal():
  assert views.Frames(3, 'ends') == views.Frames(3, 'ends')
  assert views.Stft3s() != views.Stft3s(sample_rate=8000)


# In the loader.


def training_batches(**options):
  source = [stored(row) for row in range(6)]
  batches = loader.loader(
    source,
    batch_size=4,
    seed=2,
    transforms=[views.TrainingViews(VIEWS)],
    **options,
  )
  try:
    return [next(batches) for _ in range(6)]
  finally:
    batches.close()


def test_training_draws_anew_in_every_epoch():
  batches = training_batches()
  drawn = np.concatenate(
    [batch['a'] - (4 * batch['label'] + 6) for batch in batches]
  )
  # 24 elements: 4 epochs of 6, and no two share a draw.
  assert len(np.unique(drawn)) == 24
  assert drawn.min() >= 0 and drawn.max() < 1


def test_workers_change_nothing():
  for actual, expected in zip(
    training_batches(num_workers=1), training_batches(), strict=True
  ):
    assert actual.keys() == expected.keys() == {'a', 'b', 'c', 'label'}
    for name in actual:
      np.testing.assert_array_equal(actual[name], expected[name])


def test_evaluation_needs_no_seed_and_repeats_itself():
  source = [stored(row) for row in range(3)]
  evaluation = views.EvaluationViews(VIEWS)
  assert isinstance(evaluation, grain.transforms.Map)
  batches = loader.evaluation_batches(
    source, batch_size=2, transforms=[evaluation]
  )
  for _ in range(2):
    first, second = batches
    assert first['a'].tolist() == [6, 10]
    assert second['a'].tolist() == [14, 0]
    assert second['mask'].tolist() == [True, False]


def test_training_views_are_refused_in_an_evaluation_without_a_seed():
  with pytest.raises(ValueError, match='seed'):
    loader.evaluation_batches(
      [stored(0)], batch_size=1, transforms=[views.TrainingViews(VIEWS)]
    )
