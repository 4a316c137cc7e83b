"""What pages promise works."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from tests.documentation.pages import declared
from tests.documentation.pages import FENCE
from tests.documentation.pages import get_config
from tests.documentation.pages import ROOT


def losses_fn(params, batch):
  audio, visual = (batch[name] @ params[name] for name in ('audio', 'visual'))
  outputs = {'fused': audio + visual, 'audio': audio, 'visual': visual}
  return {k: jnp.mean((v - batch['y']) ** 2) for k, v in outputs.items()}


@pytest.mark.parametrize('sign', ['-', '+'])
def test_both_sides_of_the_diff_on_the_first_page_train(sign):
  ((_, diff),) = [
    found
    for found in FENCE.findall((ROOT / 'README.md').read_text())
    if found[0] == 'diff'
  ]
  lines = [
    line[1:] for line in diff.splitlines() if line[:1] in ('', ' ', sign)
  ]
  scope = {
    'jax': jax,
    'optax': optax,
    'mimo_jax': mimo_jax,
    'losses_fn': losses_fn,
  }
  exec('\n'.join(lines), scope)
  random = np.random.default_rng(0)
  batch = {
    'audio': random.normal(size=(32, 4)),
    'visual': random.normal(size=(32, 2)),
  }
  batch['y'] = batch['audio'][:, 0] + batch['visual'][:, 0]
  params = {'audio': jnp.zeros(4), 'visual': jnp.zeros(2)}
  before = losses_fn(params, batch)['fused']
  opt_state = scope['optimizer'].init(params)
  for _ in range(50):
    params, opt_state = scope['train_step'](params, opt_state, batch)
  assert losses_fn(params, batch)['fused'] < 0.95 * before
  weights = optax.tree.get(opt_state, 'weights')
  assert (weights is None) == (sign == '-')


@pytest.mark.slow
def test_a_users_data_set_is_two_files(tmp_path, monkeypatch):
  """Written as the page says, in another folder, they can be trained on."""
  from experiments import train

  packages = {
    name: importlib.import_module(name)
    for name in ('data_pipelines', 'experiments.configs')
  }
  shown = {
    pathlib.PurePath(path): text
    for path, text in declared().items()
    if 'mine' in path
  }
  assert len(shown) == 2
  for path, text in shown.items():
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    (file.parent / '__init__.py').touch()
    file.write_text(text)
  for name, package in packages.items():
    monkeypatch.setattr(
      package,
      '__path__',
      [*package.__path__, str(tmp_path / name.replace('.', '/'))],
    )
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
  random = np.random.default_rng(0)
  for split in ('train', 'validation', 'test'):
    label = random.integers(0, 3, 256)
    left = random.normal(size=(256, 8)) + 3 * np.eye(3, 8)[label]
    right = random.normal(size=(256, 4)) + np.eye(3, 4)[label]
    np.savez(
      tmp_path / f'{split}.npz',
      left=left.astype(np.float32),
      right=right.astype(np.float32),
      label=label,
    )
  scores = train.train(
    get_config('mine', 'smoke'), tmp_path / 'run', manual_dir=tmp_path
  )
  assert scores['accuracy/fused'] > 0.8
  assert scores['accuracy/left'] > scores['accuracy/right']
