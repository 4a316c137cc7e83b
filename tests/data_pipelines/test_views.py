"""Views and the transforms that apply them, alone and in the loader."""

import dataclasses
import inspect
import io

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines import loader
from data_pipelines import sources
from data_pipelines import views
from data_pipelines.views import audio
from data_pipelines.views import entries
from data_pipelines.views import frames
from data_pipelines.views import sequences
from experiments.core import data
from tests import running


@dataclasses.dataclass(frozen=True)
class Noisy:
  """A view: the sum of the stored values, plus one draw in training."""

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


def test_an_element_has_views_and_kept_entries_and_nothing_else():
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


def test_a_view_may_have_the_name_of_a_stored_entry():
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


def test_the_error_names_a_missing_entry():
  random = np.random.default_rng(0)
  for changed, message in (
    ({'keep': ['label', 'text']}, r"no 'text'.*audio, caption, frames, label"),
    ({'views': {'x': views.Score('mood')}}, r"no 'mood'.*audio, caption"),
  ):
    arguments = {'views': VIEWS} | changed
    with pytest.raises(ValueError, match=message):
      views.EvaluationViews(**arguments).map(stored(0))
    with pytest.raises(ValueError, match=message):
      views.TrainingViews(**arguments).random_map(stored(0), random)


def test_a_name_must_not_be_both_a_view_and_kept():
  for kind in (views.TrainingViews, views.EvaluationViews):
    with pytest.raises(ValueError, match=r"both for \['label'\]"):
      kind({'label': views.SevenClassLabel(), 'x': views.Score()})


def test_every_view_can_be_named_in_a_config():
  defined = {
    name: value
    for module in (audio, entries, frames, sequences)
    for name, value in vars(module).items()
    if inspect.isclass(value)
    and value.__module__ == module.__name__
    and not name.startswith('_')
  }
  assert len(defined) == 15
  for name, value in defined.items():
    assert getattr(views, name) is value


# In the loader.


def test_training_draws_anew_in_every_epoch():
  source = [stored(row) for row in range(6)]
  training = views.TrainingViews(VIEWS)
  rows = loader.loader(source, batch_size=4, seed=2, transforms=[training])
  batches = [next(rows) for _ in range(6)]
  drawn = np.concatenate(
    [batch['a'] - (4 * batch['label'] + 6) for batch in batches]
  )
  # In 24 elements, 4 epochs of 6, no two share a draw.
  assert len(np.unique(drawn)) == 24
  assert drawn.min() >= 0 and drawn.max() < 1


# The last step, on the device.


def clip(row):
  """Stores two frames, each of one colour."""
  encoded = []
  for shade in (row, 200 - row):
    stream = io.BytesIO()
    Image.new('RGB', (8, 6), (shade, 90, 3 * row)).save(stream, 'PNG')
    encoded.append(stream.getvalue())
  return stored(row) | {'frames': np.array(encoded, object)}


def config_of(noise):
  config = running.smoke()
  faces = {'name': 'Frames', 'num_frames': 2, 'policy': 'first', 'size': 4}
  sounds = {'name': 'Scaled', 'source': 'audio', 'divisor': 2}
  with config.unlocked():
    config.data.name, config.data.config = 'clips', None
    config.data.views = {'face': faces, 'sound': sounds}
    config.data.batch_size, config.evaluation.batch_size = 6, 4
    config.data.standardize = config.data.in_memory = False
    config.data.noise = noise
    config.model.encoders = {'face': {}, 'sound': {}}
  return config


def normalised(pictures):
  mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
  return (pictures / 255 - mean) / std


@pytest.fixture
def opened(monkeypatch):
  """Function: noise -> batches of training and evaluation."""
  rows = [clip(row) for row in range(6)]
  monkeypatch.setattr(sources, 'open_source', lambda *_, **__: rows)

  def run(noise):
    loaded = data.open_data(config_of(noise), seed=1)
    return [next(loaded.train), *loaded.evaluation('test')]

  return run


def test_pictures_travel_as_bytes_and_are_finished_on_the_device(opened):
  finish = data.finish(config_of(0.0))
  for batch in opened(0.0):
    assert batch['face'].dtype == np.uint8
    finished = jax.jit(finish)(batch)
    assert finished.keys() == batch.keys()
    np.testing.assert_allclose(
      finished['face'], normalised(batch['face']), atol=2e-6
    )
    for name in batch.keys() - {'face'}:
      np.testing.assert_array_equal(finished[name], batch[name])
    # A part of a batch, and with an axis of seeds.
    seeds = {'face': np.stack([batch['face'], batch['face'][::-1]])}
    expected = normalised(seeds['face'])
    for each in (finish, jax.vmap(finish)):
      np.testing.assert_allclose(each(seeds)['face'], expected, atol=2e-6)


def test_training_noise_is_in_the_units_of_finished_entries(opened):
  plain, noisy = opened(0.0), opened(1e-3)
  finish = data.finish(config_of(1e-3))
  for batch in noisy:
    assert finish(batch).keys() == batch.keys()
    assert all(finish(batch)[name] is batch[name] for name in batch)
  # Each has one colour, so crops make no difference.
  added = noisy[0]['face'] - normalised(plain[0]['face'])
  assert noisy[0]['face'].dtype == np.float32
  # 576 draws: a standard error of 3 %.
  assert 0.9e-3 < added.std() < 1.1e-3
  for clean, batch in zip(plain[1:], noisy[1:], strict=True):
    np.testing.assert_allclose(
      batch['face'][batch['mask']],
      normalised(clean['face'])[clean['mask']],
      atol=2e-6,
    )


def test_nothing_is_left_to_the_device_without_such_views():
  config = config_of(0.0)
  config.data.views = {}
  batch = {'face': np.zeros(3, np.uint8)}
  assert data.finish(config)(batch)['face'] is batch['face']
  assert isinstance(views.Frames(1, 'first'), views.DeviceView)
  assert not isinstance(views.Scaled('image', 255), views.DeviceView)
  whole = views.Finished(views.Frames(1, 'first'))
  assert not isinstance(whole, views.DeviceView)
