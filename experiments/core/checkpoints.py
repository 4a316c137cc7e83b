"""Checkpoints of a run."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
  """Checkpoints of arrays and of JSON, kept by Orbax; the last two stay."""

  def __init__(self, workdir: pathlib.Path) -> None:
    self._manager = ocp.CheckpointManager(
      workdir / 'checkpoints',
      options=ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False
      ),
    )

  def save(self, step: int, arrays: Any, progress: Mapping[str, Any]) -> None:
    """Saves a pytree of arrays and what JSON can say, both or neither."""
    self._manager.save(
      step,
      args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays),
        progress=ocp.args.JsonSave(dict(progress)),
      ),
      force=True,
    )

  def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest checkpoint; None if there is none."""
    step = self._manager.latest_step()
    if step is None:
      return None
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
      lambda leaf: (
        leaf
        if leaf.sharding is not None
        else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=first)
      ),
      like,
    )
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        arrays=ocp.args.StandardRestore(like),
        progress=ocp.args.JsonRestore(),
      ),
    )
    return restored['arrays'], restored['progress']

  def close(self) -> None:
    """Waits for Orbax to finish."""
    self._manager.close()
