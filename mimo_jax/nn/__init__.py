"""Flax models with one output for each objective, and their losses."""

import importlib.util

if importlib.util.find_spec('flax') is None:
  raise ModuleNotFoundError(
    'mimo_jax.nn is written in Flax, which is not installed: pip install'
    " 'mimo-jax[nn]'",
    name='flax',
  )

from mimo_jax import _exports
from mimo_jax.nn._batch_norm import BatchNorm as BatchNorm
from mimo_jax.nn._encoder_of import encoder_of as encoder_of
from mimo_jax.nn._late_fusion import LateFusion as LateFusion
from mimo_jax.nn._losses import absolute_error_losses as absolute_error_losses
from mimo_jax.nn._losses import cross_entropy_losses as cross_entropy_losses
from mimo_jax.nn._losses import present_rows as present_rows
from mimo_jax.nn._losses import true_class_scores as true_class_scores
from mimo_jax.nn._scale_gradient import scale_gradient as scale_gradient
from mimo_jax.nn._shapley import coalitions as coalitions
from mimo_jax.nn._shapley import shapley_outputs as shapley_outputs
from mimo_jax.nn._shapley import shapley_values as shapley_values
from mimo_jax.nn.encoders._gru import GRU as GRU
from mimo_jax.nn.encoders._lenet import LeNet as LeNet
from mimo_jax.nn.encoders._mlp import MLP as MLP
from mimo_jax.nn.encoders._resnet import ResNet18 as ResNet18
from mimo_jax.nn.encoders._resnet import ResNet50 as ResNet50
from mimo_jax.nn.encoders._torchvision import (
  torchvision_variables as torchvision_variables,
)
from mimo_jax.nn.encoders._transformer import Transformer as Transformer
from mimo_jax.nn.fusion._concat import ConcatFusion as ConcatFusion
from mimo_jax.nn.fusion._cosine import CosineFusion as CosineFusion
from mimo_jax.nn.fusion._film import FiLMFusion as FiLMFusion
from mimo_jax.nn.fusion._gated import GatedFusion as GatedFusion
from mimo_jax.nn.fusion._shared_head import entropy_weighted as entropy_weighted
from mimo_jax.nn.fusion._shared_head import SharedHeadFusion as SharedHeadFusion
from mimo_jax.nn.fusion._sum import SumFusion as SumFusion

__all__ = _exports.public_names(globals())
