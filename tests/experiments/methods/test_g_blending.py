"""G-Blending: its windows."""

from experiments.methods import g_blending
from tests.experiments.methods import recorded


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
