"""Writes a trained model as a program that runs without this project."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors import flax as safetensors

from data_pipelines import missing
from experiments.core import data
from experiments.core import presence
from experiments.core import runs
from experiments.core import trained
from experiments.core import weights
from experiments.evaluate import units
from experiments.methods import base

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(run: trained.Trained, folder: pathlib.Path) -> None:
  """Writes a model's program, parameters and description into a folder.

  The files are those that `experiments.export` names. What a data set's views
  do before training is not in the program: it takes what they give.
  """
  outputs = _program(run)
  (size,) = jax.export.symbolic_shape('rows')
  names = jax.ShapeDtypeStruct((len(run.modalities),), bool)
  rows = {
    name: jax.ShapeDtypeStruct((size, *one.shape), one.dtype)
    for name, one in run.inputs.items()
  }
  exported = jax.export.export(jax.jit(outputs), platforms=_PLATFORMS)(
    rows, names
  )
  variables = jax.device_get(run.state.variables)
  variables['params'].pop(base.BESIDE, None)  # which is not the model's
  params = {
    name: jnp.asarray(leaf) for name, leaf in weights.flat(variables).items()
  }
  described: dict[str, Any] = {
    'inputs': {
      name: {'shape': ['rows', *one.shape], 'dtype': np.dtype(one.dtype).name}
      for name, one in run.inputs.items()
    },
    'is_present': run.modalities,
    'outputs': sorted(jax.eval_shape(outputs, rows, names)),
    'classes': list(run.config.data.get('classes', ())),
  }
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'model.jax_export').write_bytes(exported.serialize())
  safetensors.save_file(params, folder / 'params.safetensors')
  text = json.dumps(described, indent=2)
  runs.write_text(folder / 'inputs.json', text + '\n')


def _program(
  run: trained.Trained,
) -> Callable[[Mapping[str, Any], jax.Array], dict[str, jax.Array]]:
  """Of rows and the modalities that are present the model's outputs."""
  finish = data.finish(run.config)
  statistics = run.signature.statistics
  variables = jax.device_get(run.state.variables)
  tells_missing = bool(presence.missing_rates(run.config))
  of_target = units.Units.of(run.config)

  def outputs(
    rows: Mapping[str, Any], is_present: jax.Array
  ) -> dict[str, jax.Array]:
    rows = dict(rows)
    if statistics is not None:
      for name, mean in statistics.mean.items():
        # With a leading axis, that of the rows.
        shift, scale = (
          jnp.asarray(value, jnp.float32)[None]
          for value in (mean, statistics.std[name])
        )
        rows[name] = (rows[name] - shift) / scale
    rows = dict(finish(rows))
    for i, name in enumerate(run.modalities):
      rows[name] = jnp.where(is_present[i], rows[name], 0)
      if tells_missing:
        here = jnp.broadcast_to(is_present[i], rows[name].shape[:1])
        rows[missing.entry(name)] = here
    found: Any = run.experiment.model.apply(variables, rows)
    if of_target == units.PLAIN:
      return found
    return {k: v * of_target.std + of_target.mean for k, v in found.items()}

  return outputs
