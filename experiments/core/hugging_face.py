"""Flax models of Hugging Face's `transformers` as encoders.

Releases of `transformers` before 5 have them; 5 has dropped Flax.
"""

import importlib
import inspect
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def model_class(model: str) -> Any:
  """The class of a Flax model.

  Raises:
    ModuleNotFoundError: if `transformers` is not installed.
    ValueError: if it has no such model of Flax, as from 5 on.
  """
  try:
    transformers = importlib.import_module('transformers')
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f'{model} needs the package transformers, in a release before 5, which'
      " has dropped Flax. Install it with: pip install 'transformers<5'",
      name='transformers',
    ) from error
  found: Any = getattr(transformers, model, None)
  if not hasattr(found, 'module_class'):
    raise ValueError(
      f'transformers {transformers.__version__} has no Flax model {model!r};'
      ' expected one as FlaxViTModel, FlaxBertModel or FlaxCLIPVisionModel.'
      " Releases from 5 on have none: pip install 'transformers<5'"
    )
  return found


class Encoder(nn.Module):
  """A model's module, without its head; what it says of a row is one vector.

  In a configuration:

      {'name': 'experiments.core.hugging_face:Encoder',
       'model': 'FlaxViTModel', 'folder': '/models/vit'}

  It begins at random; `config.warm_start =
  ('encoders_visual/module=/models/vit/flax_model.msgpack',)` gives it the
  parameters that are in the folder.

  Attributes:
    model: a class of `transformers` without a head, as `FlaxBertModel`.
    folder: with the model's `config.json`. It is read whenever the model is
      made, after training, too.
  """

  model: str
  folder: str

  def setup(self) -> None:
    """Makes the module of the model.

    Raises:
      FileNotFoundError: if the folder has no `config.json`.
      ModuleNotFoundError, ValueError: as `model_class`.
    """
    model = model_class(self.model)
    folder = pathlib.Path(self.folder).expanduser()
    if not (folder / 'config.json').is_file():  # it would ask the internet
      raise FileNotFoundError(
        f'{self.model} needs {folder}/config.json, and there is none. Give as'
        ' folder where save_pretrained of such a model has written.'
      )
    config = model.config_class.from_pretrained(str(folder))
    self.module = model.module_class(config)

  def __call__(
    self,
    inputs: jax.Array,
    length: jax.Array | None = None,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Encodes pictures, or tokens.

    Args:
      inputs: [batch, height, width, 3], or tokens [batch, time], integers in
        any type.
      length: [batch], how many tokens of each row are real; None: all.
      train: whether dropout is on.

    Returns:
      [batch, width]: the model's `pooler_output`; of one that has none, the
      mean of what it says of the tokens.

    Raises:
      ValueError: if it gives neither, as a model with a head.
    """
    takes = inspect.signature(self.module.__call__).parameters
    options: dict[str, Any] = {'deterministic': not train}
    is_real = None  # all is
    if 'input_ids' in takes:
      inputs = inputs.astype(jnp.int32)
      is_real = jnp.ones(inputs.shape, jnp.int32)
      if length is not None:
        places = jnp.arange(inputs.shape[1])[None]
        is_real = (places < length[:, None]).astype(jnp.int32)
      offered = {
        'attention_mask': is_real,
        'token_type_ids': jnp.zeros_like(inputs),
        'position_ids': self._positions(inputs),
        'head_mask': None,  # of models with a head it must be given
      }
      options |= {name: v for name, v in offered.items() if name in takes}
    found = self.module(inputs, **options)
    pooled = getattr(found, 'pooler_output', None)
    if pooled is None and not hasattr(found, 'last_hidden_state'):
      raise ValueError(
        f'{self.model} gives {sorted(found)}, as models with a head do;'
        ' expected pooler_output or last_hidden_state. Name the one without a'
        ' head, as FlaxBertModel.'
      )
    if pooled is None:
      states = found.last_hidden_state
      weights = jnp.ones(states.shape[:2]) if is_real is None else is_real
      weights = weights[..., None].astype(states.dtype)
      pooled = jnp.sum(states * weights, 1) / jnp.maximum(weights.sum(1), 1)
    return pooled.reshape(pooled.shape[0], -1)

  def _positions(self, tokens: jax.Array) -> jax.Array:
    """Where tokens are; RoBERTa's count from the number of the padding on."""
    own = sys.modules[type(self.module).__module__]
    count = getattr(own, 'create_position_ids_from_input_ids', None)
    if count is not None:
      positions: jax.Array = count(tokens, self.module.config.pad_token_id)
      return positions
    return jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
