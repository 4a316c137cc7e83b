"""G-Blending: the window that it walks over."""

from experiments.methods import g_blending
from tests.experiments.methods import recorded


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
