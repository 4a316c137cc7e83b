"""Makes the objects that a configuration names."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lookup(module: Any, name: str) -> Any:
  """The public function or class of that name in a module.

  A name `'package.module:Class'` is looked up there instead.

  Raises:
    ValueError: if there is none.
  """
  if ':' in name:
    place, _, name = name.partition(':')
    try:
      module = importlib.import_module(place)
    except ImportError as error:
      raise ValueError(
        f'{place!r} cannot be imported: {error}. Python looks in the folder'
        ' where the command is given, and in those of PYTHONPATH.'
      ) from error
  found = None if name.startswith('_') else getattr(module, name, None)
  if found is None:
    raise ValueError(f'{module.__name__} has no {name!r}.')
  return found


def make(
  module: Any,
  settings: Mapping[str, Any],
  adapt: Callable[[Any], Any] = lambda made: made,
  within: Any = None,
) -> Any:
  """Calls the function of a module that `settings['name']` names.

  Args:
    module: where to look.
    settings: `name` and the function's keyword arguments. An argument that is
      such a mapping itself, or has some in a list or tuple, is made first.
    adapt: changes each argument that was made so, such as a schedule.
    within: where to look for the functions of such arguments; None: `module`.

  Returns:
    What the function returns.

  Raises:
    ValueError: if there is no such function, or it takes no such arguments.

  Examples:
    >>> import optax
    >>> decay = {'name': 'cosine_decay_schedule', 'init_value': 0.1}
    >>> schedule = decay | {'decay_steps': 1000}
    >>> sgd = make(optax, {'name': 'sgd', 'learning_rate': schedule})
    >>> steps = tuple({'name': 'constant_schedule', 'value': v} for v in (1, 2))
    >>> join = {'name': 'join_schedules', 'boundaries': (5,)}
    >>> make(optax, join | {'schedules': steps})(7).item()
    2
    >>> make(optax, {'name': 'sgd', 'lr': 0.1})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: optax.sgd does not take {'lr': 0.1}: ...
  """

  def made(value: Any) -> Any:
    if isinstance(value, Mapping) and 'name' in value:
      return adapt(make(module if within is None else within, value))
    if isinstance(value, list | tuple):
      return type(value)(map(made, value))
    return value

  arguments = {k: made(value) for k, value in settings.items() if k != 'name'}
  function = lookup(module, settings['name'])
  try:
    return function(**arguments)
  except TypeError as error:
    name = settings['name']
    whole = name if ':' in name else f'{module.__name__}.{name}'
    raise ValueError(f'{whole} does not take {arguments}: {error}') from error
