"""Every example runs and shows what it says."""

import contextlib
import importlib
import io
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from experiments import examples
from experiments.examples import image_text
from experiments.examples import lora
from experiments.examples import segmentation
from mimo_jax import nn
from mimo_jax.nn.encoders import _resnet
from tests import conftest
from tests import running
from tests.experiments.core import test_weights

FOLDER = pathlib.Path(examples.__file__).parent
# Examples that run longer than they compile: compiled with optimisations, and
# run last.
LONG = ('contrastive', 'image_text', 'segmentation')
NAMES = sorted(
  (path.stem for path in FOLDER.glob('[!_]*.py')),
  key=lambda name: (name in LONG, name),
)


# What the last rule gains on the first, far from the measurements, on the side
# that the example claims. `policy` measures distances: the less the better.
GAINS = {
  'contrastive': {'pairs': 0.005, 'pix': 0.05, 'fou': 0},
  'equinox_loop': {'fou': 0.1, 'pix': 0},
  'image_text': {'words': 0.1, 'fused': 0.08},
  'lora': {'fou': 0.1, 'pix': 0},
  'nnx_loop': {'fou': 0.1, 'pix': 0},
  'policy': {'east': -0.02, 'north': -0.02, 'west': -0.02, 'far': 0.02},
  'segmentation': {'depth': 0.2, 'camera': 0},
  'train_state': {'no pix': 0.04},
}


@pytest.mark.parametrize('name', NAMES)
def test_an_example_measures_what_it_claims(name):
  if name == 'equinox_loop':
    pytest.importorskip('equinox')
  conftest.set_unoptimised(name not in LONG)
  module = importlib.import_module(f'experiments.examples.{name}')
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    scores = module.main()
  lines = printed.getvalue().splitlines()
  for line, (rule, measures) in zip(lines, scores.items(), strict=True):
    assert line.split(':')[0].strip() == rule
    assert all(map(math.isfinite, measures.values()))
    assert all(measure in line for measure in measures)
  # Machines and versions of XLA differ by up to 3 points.
  measured = [100 * x for of_rule in scores.values() for x in of_rule.values()]
  for number in re.findall(r'(\d+) %', module.__doc__):
    assert any(abs(float(number) - x) < 3 for x in measured), number
  alone, *_, balanced = scores.values()
  for output, least in GAINS[name].items():
    gain = balanced[output] - alone[output]
    assert gain < least if name == 'policy' else gain > least, output
  if name == 'train_state':
    assert balanced['both views'] > 0.96


def test_the_readme_has_a_row_for_each_example():
  page = (FOLDER / 'README.md').read_text()
  rows = re.findall(r'^\|.*\[`(\w+)`\]', page, re.MULTILINE)
  assert sorted(rows) == sorted(NAMES)
  assert all(path.name in page for path in FOLDER.glob('*.ipynb'))


def test_low_rank_adapters_begin_as_the_backbone():
  backbone = lora.backbone_of(jax.random.key(0))
  adapters = lora.adapters_of(jax.random.key(1), backbone)
  for view, layers in backbone.items():
    for kernel, (a, b) in zip(layers, adapters[view], strict=True):
      assert a.shape == (len(kernel), lora.RANK)
      assert jnp.all(a @ b == 0) and jnp.any(a != 0)


def test_masked_pixels_do_not_count_in_their_loss():
  scene = segmentation.scenes(2, seed=3)
  shape = (*scene['label'].shape, 3)
  logits = {
    name: jax.random.normal(jax.random.key(i), shape)
    for i, name in enumerate(('fused', *segmentation.SENSORS))
  }
  losses = jax.jit(segmentation.losses_of)(logits, scene)
  label = np.asarray(scene['label'])
  assert (label < 0).any()
  for name, value in logits.items():
    kept = label >= 0
    if name == 'depth':
      kept &= ~np.asarray(scene['hole'])
    log_prob = np.asarray(jax.nn.log_softmax(value))[kept]
    expected = -np.mean(log_prob[np.arange(kept.sum()), label[kept]])
    np.testing.assert_allclose(losses[name], expected, rtol=1e-5)


def test_the_image_encoder_can_begin_with_weights_from_a_file(
  tmp_path, monkeypatch
):
  """With weights of zero, features are zero, and all get the first class."""
  monkeypatch.setattr(_resnet, '_encoded', running.one_block)
  shapes = jax.eval_shape(
    nn.ResNet18().init, jax.random.key(0), jnp.ones((1, 24, 24, 3))
  )
  ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
  state_dict = {
    name: 0 * value
    for tree in ones.values()
    for name, value in test_weights.of_torchvision(tree).items()
  }
  path = tmp_path / 'resnet18.safetensors'
  safetensors.save_file(state_dict, path)
  data = image_text.icons()
  small = jax.tree.map(lambda x: x[:64], data)
  monkeypatch.setattr(image_text, 'icons', lambda: small)
  scores = image_text.main(steps=0, path=str(path))
  assert scores['mimo'] == scores['fused loss alone']
  first = float(jnp.mean(small['test']['label'] == 0))
  assert scores['mimo']['picture'] == pytest.approx(first)
