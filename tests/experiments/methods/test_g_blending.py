"""G-Blending: its windows, and weights from losses at both ends of one."""

import functools

import numpy as np
import pytest

from experiments.methods import g_blending
from tests.experiments.methods import recorded

# Losses of the fused output, audio and visual.
TRAIN_START = np.float32([1.5, 1.6, 1.7])
HELD_START = np.float32([1.6, 1.7, 1.75])
TRAIN_END = np.float32([0.3, 0.6, 1.2])
HELD_END = np.float32([1.1, 1.2, 1.45])
GAIN, GROWTH = np.array([0.5, 0.5, 0.3]), np.array([0.7, 0.5, 0.2])


@functools.partial(recorded.compiled, static_argnames='negative')
def compiled_blend(losses, negative):
  return g_blending.blend(*losses, negative=negative)


def assert_blend(
  expected,
  train_start=TRAIN_START,
  held_start=HELD_START,
  train_end=TRAIN_END,
  held_end=HELD_END,
  rules=('zero', 'absolute'),
  scale=1.0,
):
  """Checks that weights are proportional to the expected ones, by each rule."""
  losses = np.stack([train_start, held_start, train_end, held_end])
  losses = np.float32(scale * np.float64(losses))
  for negative in rules:
    np.testing.assert_allclose(
      compiled_blend(losses, negative),
      expected / np.sum(expected),
      rtol=1e-4,
      atol=1e-6,
      err_msg=f'{losses} {negative}',
    )


@pytest.mark.quick
def test_weights_equal_recorded_ones():
  # Computed in float64 outside of this project: |ΔG / ΔO²| as BalanceBenchmark.
  assert_blend([0.09699321047526671, 0.19010669253152263, 0.7129000969932107])


def test_weights_do_not_depend_on_the_unit_of_losses():
  for scale in (1e-30, 1e-6, 1e6, 1e30):
    assert_blend(GAIN / GROWTH**2, scale=scale)


def test_a_rising_validation_loss_has_weight_zero_or_its_absolute_value():
  rose = np.float32([1.1, 1.2, 1.95])
  gain, growth = np.array([0.5, 0.5, -0.2]), np.array([0.7, 0.5, 0.7])
  for rule, kept in (('zero', np.maximum(gain, 0)), ('absolute', np.abs(gain))):
    assert_blend(kept / growth**2, held_end=rose, rules=(rule,))


def test_weights_are_always_finite():
  # The last one does not overfit further, and gets all weight.
  flat_end = np.float32([0.3, 0.6, 1.4])
  assert_blend([0, 0, 1], train_end=flat_end)
  # Nothing was learned, or losses rose or are NaN.
  for end in (HELD_START, HELD_START + 1, np.full(3, np.nan)):
    assert_blend(np.ones(3), held_end=end, rules=('zero',))
  assert_blend(np.ones(3), scale=0.0)
  # A copy has diverged.
  diverged = np.float32([1.1, 1.2, np.inf])
  assert_blend(GAIN / GROWTH**2 * [1, 1, 0], held_end=diverged)


def test_rehearsals_cover_a_window_or_offline_all_training_once():
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
