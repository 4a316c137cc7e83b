"""Checkpoints are restored exactly as saved, or refused."""

import errno
import gc
import pathlib
import resource
import shutil
import threading

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import logging
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from experiments.configs import handwritten
from experiments.core import checkpoints as checkpoints_lib
from experiments.core import runs

# Reads of TensorStore that nobody waits for any more.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


def tree(step):
  """Makes arrays of all kinds in a state, different in each step."""
  random = np.random.RandomState(step)
  return {
    'kernel': random.standard_normal((37, 41)).astype(np.float32),
    'half': random.standard_normal(33).astype(ml_dtypes.bfloat16),
    'count': np.int32(step),
    'flags': random.uniform(size=9) < 0.5,
    'key': jax.random.key(step),
  }


def like():
  return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree(0)))


def saved(workdir, *steps):
  one = checkpoints_lib.Checkpoints(workdir)
  for step in steps:
    one.save(step, tree(step), {'step': step})
  one.close()


def restored(workdir, shapes=None):
  one = checkpoints_lib.Checkpoints(workdir)
  try:
    return one.restore(like() if shapes is None else shapes)
  finally:
    one.close()


def assert_is(found, step):
  arrays, progress = found
  assert progress == {'step': step}
  chex.assert_trees_all_equal(
    *(one | {'key': jax.random.key_data(one['key'])}
      for one in (arrays, tree(step)))
  )  # fmt: skip


@pytest.fixture(autouse=True, scope='module')
def collected():
  """Errors of failed reads are raised here, not in tests of another file."""
  yield
  gc.collect()


@pytest.fixture
def warnings(monkeypatch):
  found = []
  monkeypatch.setattr(
    logging, 'warning', lambda text, *a: found.append(text % a)
  )
  return found


def files(workdir, step):
  folder = workdir / 'checkpoints' / f'{step}'
  return sorted(path for path in folder.rglob('*') if path.is_file())


def test_the_last_two_are_kept_and_an_interrupted_deletion_is_completed(
  tmp_path,
):
  assert restored(tmp_path) is None
  saved(tmp_path, 1, 2, 3)
  assert {p.name for p in (tmp_path / 'checkpoints').iterdir()} == {'2', '3'}
  half = tmp_path / 'checkpoints' / '1' / 'arrays'
  half.mkdir(parents=True)
  (half / 'd').write_text('left')
  assert_is(restored(tmp_path), 3)
  assert not half.parent.exists()


@pytest.mark.parametrize(
  'damage', ['cut', 'empty', 'missing', 'no arrays', 'no progress', 'nothing']
)
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(
  tmp_path, warnings, damage
):
  saved(tmp_path, 10, 20)
  folder = tmp_path / 'checkpoints' / '20'
  if damage.startswith('no'):
    shutil.rmtree(folder if damage == 'nothing' else folder / damage[3:])
    folder.mkdir(exist_ok=True)
  else:
    path = max(files(tmp_path, 20), key=lambda path: path.stat().st_size)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == 'cut' else b'')
    if damage == 'missing':
      path.unlink()
  one = checkpoints_lib.Checkpoints(tmp_path)
  assert_is(one.restore(like()), 10)
  (text,) = [text for text in warnings if 'is set aside' in text]
  assert 'step 20' in text
  # The same process can save the next one.
  one.save(20, tree(20), {'step': 20})
  one.close()
  assert_is(restored(tmp_path), 20)
  for step in (10, 20):
    shutil.rmtree(tmp_path / 'checkpoints' / f'{step}' / 'progress')
  with pytest.raises(ValueError, match=r'All checkpoints in .* are damaged'):
    restored(tmp_path)


def test_a_flipped_bit_is_always_detected(tmp_path, warnings):
  saved(tmp_path / 'whole', 10, 20)
  random = np.random.RandomState(0)
  harmless = 0
  paths = files(tmp_path / 'whole', 20)
  for number in range(60):
    workdir = tmp_path / f'{number}'
    shutil.copytree(tmp_path / 'whole', workdir)
    path = workdir / paths[number % len(paths)].relative_to(tmp_path / 'whole')
    data = bytearray(path.read_bytes())
    data[random.randint(len(data))] ^= 1 << random.randint(8)
    path.write_bytes(data)
    _, progress = found = restored(workdir)
    assert_is(found, progress['step'])
    harmless += progress['step'] == 20
    shutil.rmtree(workdir)
  assert 0 < harmless < 60
  named = [text for text in warnings if 'is set aside' in text]
  assert len(named) == 60 - harmless


def test_other_types_and_names_are_refused_and_not_cast(tmp_path):
  saved(tmp_path, 5)
  wide = like() | {'count': jax.ShapeDtypeStruct((), jnp.float32)}
  message = r"'count'.*int32\[\], and is float32\[\] now"
  with pytest.raises(ValueError, match=message):
    restored(tmp_path, wide)
  short = like() | {'half': jax.ShapeDtypeStruct((32,), jnp.bfloat16)}
  with pytest.raises(ValueError, match=r"'half'.*\[33\], and is .*\[32\] now"):
    restored(tmp_path, short)
  more = like() | {'more': jax.ShapeDtypeStruct((), jnp.float32)}
  with pytest.raises(ValueError, match=r"only one of the two has .*'more'"):
    restored(tmp_path, more)
  assert_is(restored(tmp_path), 5)


def test_errors_of_the_machine_are_not_taken_for_damage(tmp_path, monkeypatch):
  saved(tmp_path, 5)

  def full(*_, **__):
    raise ValueError('RESOURCE_EXHAUSTED: out of memory')

  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, 'restore', full)
    with pytest.raises(ValueError, match='out of memory'):
      restored(tmp_path)
  assert_is(restored(tmp_path), 5)


def test_a_digest_is_the_same_on_any_devices():
  mesh = jax.make_mesh((4,), ('x',), devices=jax.devices()[:4])
  for name, leaf in tree(3).items():
    if name == 'key':
      continue
    spec = PartitionSpec(None, 'x') if leaf.ndim > 1 else PartitionSpec()
    leaf = leaf[:, :40] if leaf.ndim > 1 else leaf
    number = int(checkpoints_lib._digest(np.asarray(leaf)))
    divided = jax.device_put(leaf, NamedSharding(mesh, spec))
    found = jax.jit(checkpoints_lib._digest_on_devices)(divided)
    assert int(found) == number, name


def test_a_read_only_checkpoint_is_read_by_one_process_at_a_time(
  tmp_path, monkeypatch
):
  saved(tmp_path, 10)
  as_it_is = pathlib.Path.open

  def opened(path, mode='r', **options):
    if 'w' in mode:
      raise OSError(errno.EROFS, 'Read-only file system', f'{path}')
    return as_it_is(path, mode, **options)

  monkeypatch.setattr(pathlib.Path, 'open', opened)
  assert_is(restored(tmp_path), 10)
  one = checkpoints_lib.Checkpoints(tmp_path)
  with pytest.raises(ValueError, match='Another process is using'):
    restored(tmp_path)
  one.close()
  with pytest.raises(OSError, match=r'Read-only .*checkpoints\.lock'):
    checkpoints_lib.Checkpoints(tmp_path / 'new')


def test_a_full_disk_is_one_line_and_the_run_can_be_resumed(tmp_path, caplog):
  saved(tmp_path, 10)
  one = checkpoints_lib.Checkpoints(tmp_path)
  before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, most))
  try:
    message = r'step 20 \(0 MB\) could not .* MB are free: .*Error writing'
    with pytest.raises(OSError, match=message) as caught:
      one.save(20, tree(20), {'step': 20})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
  assert '\n' not in str(caught.value)
  del caught
  gc.collect()  # asyncio reports errors late
  one.close()
  assert not [each.getMessage() for each in caplog.records]
  assert_is(restored(tmp_path), 10)


def test_threads_that_fail_late_are_waited_for(tmp_path, caplog, monkeypatch):
  said = threading.Event()

  def say():
    logging.error('A page of this thread.')
    said.set()

  def save(*_, **__):
    threading.Timer(0.2, say).start()
    raise ValueError('What the other one met.')

  one = checkpoints_lib.Checkpoints(tmp_path)
  monkeypatch.setattr(one._manager, 'save', save)
  # Another thread exists but has not begun when the waiting begins.
  threads, unborn = threading.enumerate, iter([[], [threading.Thread()]])
  monkeypatch.setattr(
    threading, 'enumerate', lambda: [*threads(), *next(unborn, [])]
  )
  with pytest.raises(OSError, match='What the other one met'):
    one.save(10, tree(10), {'step': 10})
  one.close()
  assert said.wait(5)
  assert not caplog.records


def test_the_error_names_a_file_that_cannot_be_written(tmp_path):
  (tmp_path / 'config.json.writing').symlink_to('/dev/full')
  with pytest.raises(OSError, match=r'No space left.*config\.json'):
    runs.write_text(tmp_path / 'config.json', '{}')


def test_a_path_that_is_a_pattern_is_refused(tmp_path):
  config = handwritten.get_config('two,smoke')
  for name in ('lr[0.1]', 'a*', 'b?', 'a\\b'):
    with pytest.raises(ValueError, match='another --workdir'):
      runs.open_workdir(pathlib.Path(tmp_path) / name, config)
