"""PyTorch's step of two ResNet-18 side by side, for `device` to time.

The network, the optimizer and its settings are those of a configuration; names
and layouts are torchvision's. It is as fast as PyTorch goes without computing
anything else: channels last, autotuned kernels, AdamW in one kernel on a GPU,
and bfloat16 by autocast in the encoders only, as in ours. Our step does a
little more: it computes each modality's loss from the shares of the fused
logits, for the log, and checks whether an update is finite.

PyTorch is imported where it is needed, so this can be imported without it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from experiments.benchmark import peers

# ImageNet's, of red, green and blue: see `data_pipelines.views.Frames`.
_MEAN = np.array([0.485, 0.456, 0.406])
_STD = np.array([0.229, 0.224, 0.225])


def model(config: config_dict.ConfigDict, channels: Mapping[str, int]) -> Any:
  """An encoder per modality, of its number of channels, and a linear layer."""
  import torch
  from torch import nn

  made, total = nn.Module(), 0
  made.encoders = nn.ModuleDict()
  for name in sorted(config.model.encoders):
    width = config.model.encoders[name].width
    made.encoders[name] = _resnet18(channels[name], width)
    total += 8 * width
  made.fusion = nn.Linear(total, config.model.num_classes)
  for name, value in (('scale', 1 / (255 * _STD)), ('shift', _MEAN / _STD)):
    made.register_buffer(name, torch.tensor(value).float(), persistent=False)
  return made


def logits(
  model: Any, config: config_dict.ConfigDict, batch: Mapping[str, Any]
) -> Any:
  """Fused logits [batch, classes] of inputs [batch, (frames,) h, w, channels].

  Inputs of bytes are pictures, and are normalised.
  """
  import torch

  features = []
  for name, encoder in model.encoders.items():
    inputs = batch[name]
    if inputs.dtype == torch.uint8:
      inputs = inputs * model.scale - model.shift
    is_narrow = config.model.encoders[name].dtype == 'bfloat16'
    # Channels are last already, so this view has the layout that is wanted.
    maps = inputs.flatten(0, -4).movedim(-1, 1)
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=is_narrow):
      maps = _maps(encoder, maps)
    frames = maps.float().mean((2, 3)).unflatten(0, (len(inputs), -1))
    features.append(frames.mean(1))
  return model.fusion(torch.cat(features, 1))


def step(
  model: Any,
  config: config_dict.ConfigDict,
  batch: Mapping[str, jax.Array],
  compiled: bool = False,
) -> Callable[[], Any]:
  """A training step on a batch, which returns the loss before it.

  If compiled, the forward and backward passes are, by `torch.compile`.
  """
  import torch

  torch.backends.cudnn.benchmark = True
  device = peers.device()
  model.to(device, memory_format=torch.channels_last)
  given = {k: peers.tensor(np.array(value)) for k, value in batch.items()}
  target = given.pop(config.target).long()
  settings = config.optimizer
  optimizer = torch.optim.AdamW(
    model.parameters(),
    settings.learning_rate.init_value,
    weight_decay=settings.weight_decay,
    fused=device == 'cuda',
  )

  def loss_of(given: Mapping[str, Any], target: Any) -> Any:
    found = logits(model, config, given)
    return torch.nn.functional.cross_entropy(found, target)

  loss_fn = torch.compile(loss_of) if compiled else loss_of

  def run() -> Any:
    optimizer.zero_grad()
    loss = loss_fn(given, target)
    loss.backward()
    optimizer.step()
    if device == 'cuda':
      torch.cuda.synchronize()
    return loss.detach()

  return run


def _resnet18(channels: int, width: int) -> Any:
  """The layers, by torchvision's names; `_maps` applies them."""
  from torch import nn

  def convolution(inner: int, outer: int, size: int, stride: int = 1) -> Any:
    return nn.Conv2d(inner, outer, size, stride, size // 2, bias=False)

  def block(inner: int, outer: int, stride: int) -> Any:
    made = nn.Module()
    made.conv1 = convolution(inner, outer, 3, stride)
    made.bn1 = nn.BatchNorm2d(outer)
    made.conv2 = convolution(outer, outer, 3)
    made.bn2 = nn.BatchNorm2d(outer)
    made.downsample = nn.Identity()
    if (inner, stride) != (outer, 1):
      shortcut = convolution(inner, outer, 1, stride)
      made.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outer))
    return made

  made, inner = nn.Module(), width
  made.conv1 = convolution(channels, width, 7, 2)
  made.bn1 = nn.BatchNorm2d(width)
  made.maxpool = nn.MaxPool2d(3, 2, 1)
  for stage in range(4):
    outer, stride = width * 2**stage, 2 if stage else 1
    blocks = [block(inner, outer, stride), block(outer, outer, 1)]
    setattr(made, f'layer{stage + 1}', nn.Sequential(*blocks))
    inner = outer
  return made


def _maps(encoder: Any, maps: Any) -> Any:
  """The last stage's maps [batch, channels, height, width]."""
  maps = encoder.maxpool(encoder.bn1(encoder.conv1(maps)).relu())
  for stage in range(4):
    for block in getattr(encoder, f'layer{stage + 1}'):
      shortcut = block.downsample(maps)
      maps = block.bn1(block.conv1(maps)).relu()
      maps = (block.bn2(block.conv2(maps)) + shortcut).relu()
  return maps
