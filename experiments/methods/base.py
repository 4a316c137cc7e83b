"""The interface that every method implements.

A training step is the same for every method. It asks the method for named
losses, takes their pullback, and lets the method's gradient transformation turn
it into updates, which the optimizer takes from there. It has three slots, which
a method may fill or leave to the configuration: the model; the losses and what
weighs them; and what is done to the gradients. `experiments.methods.common`
makes most methods of one function: README.md here has such a file, whole.

A method may also remember something between steps (its memory), hand the
transformation more than losses, update in several phases on one batch, and
rehearse on the batches to come before training goes on. Those that need none of
these never see them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import optax

import mimo_jax
from mimo_jax import nn

# Where, in params, is what learns beside the model.
BESIDE = 'beside'

Batch = Mapping[str, Any]
Losses = dict[str, jax.Array]  # objective -> []
# What a comparison draws of a method: arguments of its `make`, and for each
# `{'low': a, 'high': b, 'scale': 'log'}` (or 'linear') or `{'choices': (...)}`.
Space = Mapping[str, Mapping[str, Any]]


class TrainState(NamedTuple):
  """All that changes in training."""

  step: jax.Array  # [] int32, steps taken
  params: Any  # the model's and, where a method has some, those of `BESIDE`
  model_state: Any  # the model's other collections: batch statistics; or {}
  opt_state: optax.OptState  # the optimizer's and the weighting's state
  memory: Any  # the method's own; () for most
  key: jax.Array  # never changes; each step's key is folded from it

  @property
  def variables(self) -> dict[str, Any]:
    """What Flax applies: params and the other collections."""
    return {'params': self.params, **self.model_state}


class Task(NamedTuple):
  """What every method is given: the problem, and the user's choices."""

  model: nn.LateFusion
  # of outputs, targets and, if they are to count differently, weights of rows
  losses_of: Callable[..., Losses]
  target: str  # the name of the targets in a batch
  # What weighs the losses, and its name; of 'joint', for want of another, the
  # sum, and the model's heads stand on stopped gradients.
  weighting: mimo_jax.Weighting
  weighting_name: str
  # number of updates a step -> what follows the method's transformation: the
  # user's transforms and optimizer, with schedules that count steps
  optimizer: Callable[[int], optax.GradientTransformation]
  steps_per_epoch: int
  steps: int  # of the whole training; a run that is made longer has others
  # `mimo_jax.balance` for the devices that there are
  balance: Callable[..., optax.GradientTransformationExtraArgs] = (
    mimo_jax.balance
  )
  # over which `jax.pmap` runs the step; None where a batch is whole
  axis_name: str | None = None
  # modalities that rows may lack: batches say so in `<modality>_present`
  missing: tuple[str, ...] = ()
  # whether a parameter learns, by the keys on its path; what does not stands
  # still in copies of the model, too
  learns: Callable[[tuple[str, ...]], bool] = lambda _: True

  @property
  def modalities(self) -> tuple[str, ...]:
    """Their names, sorted."""
    return tuple(sorted(self.model.encoders))

  @property
  def objectives(self) -> tuple[str, ...]:
    """The outputs, each of which has a loss: fused, then the modalities."""
    return ('fused', *self.modalities)

  @property
  def is_regression(self) -> bool:
    """Whether targets are numbers, and not classes."""
    return self.losses_of is not nn.cross_entropy_losses


class Seen(NamedTuple):
  """What a method saw while it computed its losses."""

  model_state: Any  # as the step leaves it
  memory: Any  # as the step leaves it
  # Extra arguments of the method's gradient transformation, such as scores.
  observed: Mapping[str, Any] = {}


# (state, batch, key, phase) -> losses, and what was seen
LossesFn = Callable[[TrainState, Batch, jax.Array, Any], tuple[Losses, Seen]]


class Pass(NamedTuple):
  """One walk over batches in a rehearsal."""

  # 'train' are the batches to come, which training will see again afterwards;
  # 'validation' are all rows of that split, each once, with `mask` [batch].
  split: Literal['train', 'validation']
  epochs: float  # of 'train', at least one batch; 'validation' is walked once
  step: Callable[[TrainState, Any, Batch], Any]  # of state and scratch: scratch


# Of a loss in a sum.
Factor = float | Callable[[TrainState], jax.Array]


class Rehearsal(NamedTuple):
  """What a method does between steps, before it goes on.

  For what no single batch can tell: prototypes of all classes, how much each
  modality overfits, a teacher. The runner makes a scratch, walks it over the
  passes, and lets `end` write into the state what came out. All are pure, and
  vmapped over seeds like the training step.
  """

  every_epochs: float | None  # from the first step on; None: once, before it
  begin: Callable[[TrainState, Batch], Any]  # the scratch; shapes of the batch
  passes: tuple[Pass, ...]
  end: Callable[[TrainState, Any], TrainState]  # of state and scratch
  # Of a parameter's path, whether `end` moves it: what the optimizer remembers
  # of such a parameter, moments and averages, then begins anew.
  moves: Callable[[tuple[str, ...]], bool] | None = None
  # Of those that are due every so many epochs, the number of the first, 0 for
  # before the first step, and of the last, None if there is none.
  first: int = 0
  last: int | None = None


class Method(NamedTuple):
  """A way to train a multi-modal model."""

  model: nn.LateFusion  # trained and evaluated: the task's, or a variant of it
  objectives: tuple[str, ...]  # names of the losses, those of the outputs first
  losses: LossesFn  # pure, differentiable in params; a key for each step
  # From the pullback of the losses to one gradient, as `mimo_jax.balance`, and
  # what follows; both are given the losses and `Seen.observed`, too.
  gradients: optax.GradientTransformationExtraArgs
  optimizer: optax.GradientTransformation
  # The losses that the primary objective is the sum of, and their factors, or
  # functions of the state that give them: what weighs sees this sum as 'fused',
  # and each of them is logged by its name.
  primary: Mapping[str, Factor] = {'fused': 1.0}
  # What the first state has besides params: memory, say, which is () before.
  # Draws are folded from its key.
  init: Callable[[TrainState, Batch], TrainState] = lambda state, _: state
  rehearsal: Rehearsal | None = None
  # Params that are not the model's, such as those of a network that a loss has.
  # They learn with it, as `params[BESIDE]`, and are not exported. Of the first
  # state, before there is an optimizer's; draws are folded from its key.
  beside: Callable[[TrainState, Batch], Any] | None = None
  # A step updates once in each, on the same batch; the last phase's losses must
  # be those of all objectives that earlier ones left out.
  phases: tuple[Any, ...] = (None,)
  # Whether losses, memory and what was observed of a batch are the means of
  # those of its equal parts, and they draw nothing: then devices may each see a
  # part, as under `config.parallel='pmap'`, which is refused otherwise. Where
  # rows lack a modality, a part counts by the rows that have it.
  is_mean_over_rows: bool = False
  # Whether rows that lack a modality are left out wherever it is looked at;
  # else such batches are refused.
  takes_missing: bool = False
