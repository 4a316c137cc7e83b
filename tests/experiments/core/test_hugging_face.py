"""Flax models of transformers as encoders, by a stand-in with their interface.

With transformers 4.57.6 itself, `FlaxBertModel`, `FlaxRobertaModel`,
`FlaxDistilBertModel`, `FlaxViTModel`, `FlaxCLIPVisionModel` and
`FlaxResNetModel` returned exactly what they return when called directly;
`FlaxBertModel` and `FlaxViTModel` were trained, resumed and exported, too.
"""

import collections
import json
import sys
import types
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from flax import serialization

from experiments.core import hugging_face
from experiments.core import named
from experiments.core import weights
from mimo_jax import nn

TOKENS = np.array([[3, 4, 5], [6, 7, 1]])


class Config(types.SimpleNamespace):
  """A configuration of a model, read from its folder."""

  @classmethod
  def from_pretrained(cls, folder):
    with open(f'{folder}/config.json') as file:
      return cls(**json.load(file))


class TextModule(linen.Module):
  """Sums embeddings of tokens and positions where the mask is 1."""

  config: Any

  @linen.compact
  def __call__(
    self, input_ids, attention_mask, position_ids, deterministic=True
  ):
    width = self.config.width
    states = linen.Embed(9, width, name='tokens')(input_ids)
    states += linen.Embed(9, width, name='places')(position_ids)
    states *= attention_mask[..., None]
    states = linen.Dropout(0.5)(states, deterministic=deterministic)
    return types.SimpleNamespace(last_hidden_state=states, pooler_output=None)


class PictureModule(linen.Module):
  """Takes means over patches; keeps axes of length 1."""

  config: Any

  @linen.compact
  def __call__(self, pixel_values, deterministic=True):
    del deterministic
    pooled = linen.Conv(self.config.width, (2, 2), 2)(pixel_values)
    pooled = pooled.mean((1, 2), keepdims=True)
    return types.SimpleNamespace(pooler_output=pooled)


class HeadModule(linen.Module):
  """Returns logits in a mapping with attributes, like that of transformers."""

  config: Any

  def __call__(self, input_ids, head_mask, deterministic=True):
    del head_mask, deterministic
    return collections.OrderedDict(logits=input_ids)


@pytest.fixture(autouse=True)
def transformers(monkeypatch):
  made = types.ModuleType('transformers')
  made.__version__ = '4.0.0'
  modules = {'Text': TextModule, 'Picture': PictureModule, 'Head': HeadModule}
  for name, module in modules.items():
    model = types.SimpleNamespace(module_class=module, config_class=Config)
    setattr(made, f'Flax{name}Model', model)
  made.TextModel = object()
  monkeypatch.setitem(sys.modules, 'transformers', made)


@pytest.fixture
def encoder(tmp_path):
  (tmp_path / 'config.json').write_text('{"width": 2}')

  def make(model):
    settings = {'model': model, 'folder': str(tmp_path)}
    name = 'experiments.core.hugging_face:Encoder'
    return named.make(nn, {'name': name, **settings})

  return make


def test_tokens_are_pooled_over_those_that_are_no_padding(encoder):
  text = encoder('FlaxTextModel')
  length = jnp.array([3, 2])
  variables = text.init(jax.random.key(0), TOKENS)
  params = variables['params']['module']
  tokens, places = params['tokens']['embedding'], params['places']['embedding']
  states = tokens[TOKENS] + places[None, :3]
  np.testing.assert_allclose(
    text.apply(variables, TOKENS.astype(np.float32)), states.mean(1), rtol=1e-6
  )
  expected = jnp.stack([states[0].mean(0), states[1, :2].mean(0)])
  found = text.apply(variables, TOKENS, length=length)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  rngs = {'dropout': jax.random.key(1)}
  dropped = text.apply(variables, TOKENS, length, train=True, rngs=rngs)
  assert not np.allclose(dropped, expected)


def test_positions_are_counted_as_in_the_model(encoder, monkeypatch):
  text = encoder('FlaxTextModel')
  variables = text.init(jax.random.key(0), TOKENS)
  params = variables['params']['module']

  def count(tokens, padding):
    return tokens * 0 + padding

  monkeypatch.setitem(globals(), 'create_position_ids_from_input_ids', count)
  monkeypatch.setattr(Config, 'pad_token_id', 4, raising=False)
  states = params['tokens']['embedding'][TOKENS]
  states += params['places']['embedding'][None, None, 4]
  np.testing.assert_allclose(
    text.apply(variables, TOKENS), states.mean(1), rtol=1e-6
  )


def test_parameters_are_read_from_the_folder(encoder, tmp_path):
  pictures = {'visual': np.ones((3, 4, 4, 3), np.float32)}
  model = nn.LateFusion({'visual': encoder('FlaxPictureModel')}, 4)
  variables = model.init(jax.random.key(0), pictures)
  assert model.apply(variables, pictures)['visual'].shape == (3, 4)
  before = variables['params']['encoders_visual']['module']
  ours = jax.tree.map(lambda leaf: leaf + 1, before)
  path = tmp_path / 'flax_model.msgpack'
  path.write_bytes(serialization.msgpack_serialize(ours))
  found = weights.started(variables, [f'encoders_visual/module={path}'])
  after = found['params']['encoders_visual']['module']
  jax.tree.map(np.testing.assert_array_equal, after, ours)


def test_the_folder_may_begin_with_a_tilde_and_must_exist(
  encoder, tmp_path, monkeypatch
):
  monkeypatch.setenv('HOME', str(tmp_path.parent))
  for name in (tmp_path.name, 'nowhere'):
    at_home = encoder('FlaxPictureModel').clone(folder=f'~/{name}')
    if name == 'nowhere':
      with pytest.raises(FileNotFoundError, match=r'nowhere/config.*Give as'):
        at_home.init(jax.random.key(0), np.ones((1, 4, 4, 3)))
    else:
      at_home.init(jax.random.key(0), np.ones((1, 4, 4, 3)))


@pytest.mark.parametrize('model', ['FlaxTextModel', 'FlaxPictureModel'])
def test_it_can_be_exported_for_any_number_of_rows(encoder, model):
  rows = np.ones((2, 4, 4, 3)) if 'Picture' in model else TOKENS
  variables = encoder(model).init(jax.random.key(0), rows)
  (size,) = jax.export.symbolic_shape('rows')
  program = jax.export.export(jax.jit(encoder(model).apply))(
    variables, jax.ShapeDtypeStruct((size, *rows.shape[1:]), jnp.float32)
  )
  assert program.out_avals[0].shape == (size, 2)


def test_a_model_with_a_head_is_refused(encoder):
  with pytest.raises(ValueError, match=r"gives \['logits'\].* without a head"):
    encoder('FlaxHeadModel').init(jax.random.key(0), TOKENS)


def test_without_flax_models_the_error_says_what_to_install(
  encoder, monkeypatch
):
  with pytest.raises(ValueError, match=r"4\.0\.0 has no Flax.*'TextModel'"):
    encoder('TextModel').init(jax.random.key(0), TOKENS)
  monkeypatch.setitem(sys.modules, 'transformers', None)
  with pytest.raises(ModuleNotFoundError, match="pip install 'transformers<5'"):
    hugging_face.model_class('FlaxTextModel')
