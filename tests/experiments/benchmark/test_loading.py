"""Timing of the stages between files and a batch."""

import itertools
import types

import pytest

from data_pipelines.av_mnist import tree
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import loading
from experiments.benchmark import timing
from experiments.configs import av_mnist


@pytest.fixture(scope='module')
def manual_dir(tmp_path_factory):
  """A sample of AV-MNIST, prepared on first use."""
  folder = tmp_path_factory.mktemp('av_mnist')
  tree.write_sample(folder, train=48, test=5)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TFDS_DATA_DIR', str(tmp_path_factory.mktemp('prepared')))
    yield folder


def test_stages_are_timed_for_the_same_number_of_items(manual_dir, monkeypatch):
  config = av_mnist.get_config('smoke')
  config.data.batch_size = 8
  clock = itertools.count()
  # Each reading of the clock takes a second; every call of a stage reads twice.
  fake = types.SimpleNamespace(perf_counter=lambda: float(next(clock)))
  monkeypatch.setattr(timing, 'time', fake)
  settings = {'items': 20, 'rounds': 3, 'num_workers': 0}
  taken = loading.measure(config, manual_dir, **settings)
  names = 'read/audio/image/bare loop/bare loop, stacked/loader'
  assert list(taken) == names.split('/')
  for name, times in taken.items():
    # In whole batches: 16 items a second, in three rounds.
    assert times.rounds.tolist() == [1 / 16] * 3, name
  *_, last = loading.table(taken).splitlines()
  assert last.split()[1:6:2] == ['loader', '16.0', '1.00']


def test_stages_are_printed_with_and_without_workers(manual_dir, capsys):
  options = ['--repeats=2', '--items=8', '--workers=1']
  data = ['--data=av_mnist:smoke', f'--manual_dir={manual_dir}']
  benchmark.main(['loading', *data, *options])
  assert '| loader, 1 workers ' in capsys.readouterr().out
