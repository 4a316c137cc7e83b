"""MMCosine: a cosine fusion replaces a linear one."""

import functools

import pytest

from experiments.methods import mmcosine
from mimo_jax import nn
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_it_keeps_the_initialiser_and_refuses_other_fusions():
  def make(fusion):
    return mmcosine.make(recorded.make_task(fusion=fusion), scale=7.0)

  made = make(functools.partial(nn.SumFusion, kernel_init='ones')).model.fusion
  assert made.func is nn.CosineFusion
  assert made.keywords == {'scale': 7.0, 'kernel_init': 'ones'}
  hidden = functools.partial(nn.ConcatFusion, hidden_widths=(8,))
  for fusion in (hidden, nn.GatedFusion):
    with pytest.raises(ValueError, match='mmcosine was given a model with'):
      make(fusion)
