"""PyTorch's step, with which ours is compared on a GPU, computes the same."""

import functools

import jax
import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import device
from experiments.benchmark import subroutine
from experiments.benchmark import torch_resnet
from experiments.core import data
from experiments.core import training
from mimo_jax.nn.encoders import _resnet
from tests import running
from tests.experiments.report.made_up import tables_of
from tests.mimo_jax.nn.encoders import drawn

torch = pytest.importorskip('torch')


def copy(variables, model):
  """Copies our variables to PyTorch's model."""
  kernel, bias = (
    torch.tensor(np.asarray(variables['params']['fusion']['Dense_0'][name]))
    for name in ('kernel', 'bias')
  )
  model.fusion.load_state_dict({'weight': kernel.T, 'bias': bias})
  for name, encoder in model.encoders.items():
    own = {k: each[f'encoders_{name}'] for k, each in variables.items()}
    tensors = {k: torch.tensor(v) for k, v in drawn.state_dict(own).items()}
    unmatched = encoder.load_state_dict(tensors, strict=False)
    assert not unmatched.unexpected_keys
    for key in unmatched.missing_keys:
      assert key.endswith('num_batches_tracked')


def test_logits_and_steps_equal_ours():
  config = device.configs([], 'float32', 2)['joint']
  shapes = {'audio': (45, 34, 1), 'visual': (2, 37, 33, 3)}
  batch = subroutine.made_up_batch(config, 5, shapes)
  batch['visual'] = (32 * (batch['visual'] + 4)).astype(np.uint8)
  experiment = training.make(config, subroutine.STEPS_PER_EPOCH)
  finish = data.finish(config)
  variables = drawn.random_variables(experiment.model, finish(batch))
  model = torch_resnet.model(config, {'audio': 1, 'visual': 3})
  copy(variables, model)

  @jax.jit
  def logits(variables, batch):
    options = {'train': True, 'mutable': ['batch_stats']}
    return experiment.model.apply(variables, finish(batch), **options)[0]

  ours = logits(variables, batch)['fused']
  tensors = {name: torch.tensor(np.asarray(batch[name])) for name in shapes}
  with torch.no_grad():
    theirs = torch_resnet.logits(model, config, tensors).numpy()
  assert np.max(np.std(ours, axis=0)) > 0.1
  np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)

  key, params = jax.random.key(0), variables.pop('params')
  # Faster than an init; the optimizer's moments begin with zeros.
  state = jax.eval_shape(experiment.init, key, batch)
  state = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype), state._replace(key=())
  )._replace(key=key, params=params, model_state=variables)
  step = jax.jit(experiment.train_step)
  run = torch_resnet.step(model, config, batch)
  losses = []
  for _ in range(3):
    state, logged = step(state, batch)
    losses.append((logged['losses']['fused'].item(), run().item()))
  ours, theirs = np.transpose(losses)
  np.testing.assert_allclose(theirs, ours, rtol=1e-4)
  assert ours[0] - ours[2] > 0.01


def test_steps_are_compared_with_ours(monkeypatch, capsys):
  monkeypatch.setattr(_resnet, '_encoded', running.one_block)
  monkeypatch.setattr(device.programs, 'resnet18_shapes', lambda: [(3, 5)])
  # Without compilation, but as a single graph.
  traced = functools.partial(torch.compile, backend='eager', fullgraph=True)
  monkeypatch.setattr(torch, 'compile', traced)
  benchmark.main(
    [
      *('device', '--peers=yes', '--repeats=2', '--batch_sizes=2,3'),
      *('--dtypes=bfloat16', '--weightings=', '--at_features=', '--width=1'),
      *('--size=8', '--num_parameters=', '--objectives=2'),
    ]
  )
  printed = capsys.readouterr().out
  assert f'torch {torch.__version__}' in printed
  assert 'bfloat16, batch 2, beside PyTorch:' in printed
  (head, *rows) = tables_of(printed)[1]
  assert head == ['step', 'steps/s', 'x joint']
  names = ['joint', 'PyTorch', 'PyTorch, compiled']
  assert [name for name, *_ in rows] == names
  assert rows[0][2] == '1.00'
  for _, speed, ratio in rows:
    assert float(speed) > 0 < float(ratio)
