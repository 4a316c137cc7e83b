"""G-Blending: weights of losses at both ends of a window, and the window."""

import functools

import numpy as np
import pytest

from experiments.methods import g_blending
from tests.experiments.methods import recorded

# Of the fused output, audio and visual.
TRAIN_START = np.float32([1.5, 1.6, 1.7])
HELD_START = np.float32([1.6, 1.7, 1.75])
TRAIN_END = np.float32([0.3, 0.6, 1.2])
HELD_END = np.float32([1.1, 1.2, 1.45])


@functools.partial(recorded.compiled, static_argnames='negative')
def compiled_blend(losses, negative):
  return g_blending.blend(*losses, negative=negative)


def blend(
  train_start=TRAIN_START,
  held_start=HELD_START,
  train_end=TRAIN_END,
  held_end=HELD_END,
  negative='zero',
):
  losses = np.stack([train_start, held_start, train_end, held_end])
  return np.asarray(compiled_blend(np.float32(losses), negative))


@pytest.mark.quick
def test_blend_is_that_of_recorded_numbers():
  # Computed in float64 outside this project, |ΔG / ΔO²| as BalanceBenchmark.
  expected = [0.09699321047526671, 0.19010669253152263, 0.7129000969932107]
  for negative in ('zero', 'absolute'):
    np.testing.assert_allclose(blend(negative=negative), expected, rtol=1e-4)


def test_blend_does_not_depend_on_the_unit_of_losses():
  losses = (TRAIN_START, HELD_START, TRAIN_END, HELD_END)
  for scale in (1e-30, 1e-6, 1e6, 1e30):
    scaled = blend(*(scale * np.float64(one) for one in losses))
    np.testing.assert_allclose(scaled, blend(), rtol=1e-4, err_msg=str(scale))


def test_a_loss_that_rose_on_validation_rows_has_no_weight_or_its_size():
  rose = np.float32([1.1, 1.2, 1.95])
  gain = np.array([0.5, 0.5, -0.2])
  growth = np.array([0.7, 0.5, 0.7])
  for negative, numerators in (
    ('zero', np.maximum(gain, 0)),
    ('absolute', np.abs(gain)),
  ):
    scores = numerators / growth**2
    np.testing.assert_allclose(
      blend(held_end=rose, negative=negative),
      scores / np.sum(scores),
      rtol=1e-4,
    )


def test_blend_is_finite_whatever_happens():
  # The last overfits no more than before: all of the weight.
  flat_end = np.float32([0.3, 0.6, 1.4])
  np.testing.assert_allclose(blend(train_end=flat_end), [0, 0, 1], atol=1e-6)
  # Nothing was learnt, or all is lost.
  for end in (HELD_START, HELD_START + 1, np.full(3, np.nan)):
    np.testing.assert_allclose(blend(held_end=end), 1 / 3, rtol=1e-6)
  zeros = np.zeros(3)
  np.testing.assert_allclose(
    blend(zeros, zeros, zeros, zeros), 1 / 3, rtol=1e-6
  )
  # A copy that diverged.
  diverged = np.float32([1.1, 1.2, np.inf])
  scores = np.array([0.5 / 0.7**2, 0.5 / 0.5**2, 0])
  for negative in ('zero', 'absolute'):
    np.testing.assert_allclose(
      blend(held_end=diverged, negative=negative),
      scores / np.sum(scores),
      rtol=1e-4,
    )


def test_what_is_walked_over_is_a_window_and_offline_it_is_walked_once():
  task = recorded.make_task()
  offline = g_blending.make(task, super_epochs=7.0, offline=True).rehearsal
  online = g_blending.make(task, super_epochs=0.5).rehearsal
  assert (offline.every_epochs, online.every_epochs) == (None, 0.5)
  for rehearsal, window, once in ((offline, 7.0, 1.0), (online, 0.5, 0.5)):
    assert [(one.split, one.epochs) for one in rehearsal.passes] == [
      ('train', once),
      ('validation', 1),
      ('train', window),
      ('train', once),
      ('validation', 1),
    ]
