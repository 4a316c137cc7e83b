"""Builds the release, and uses it with the oldest and newest JAX.

  python -m tests.release [--every] [--output=dist]

builds the sdist, and the wheel from it, installs the wheel with its extra `nn`
in a new environment, and trains a model. By default it uses the newest Python
on this machine, the newest JAX for it, and three rules. With `--every` it uses
each Python on this machine, both the newest versions and the oldest ones that
setup.cfg allows, and all rules. Packages come from their registry.
"""

import argparse
import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[1]
RULES = ('mimo', 'mgda', 'pcgrad')  # for losses, the Gramian, the Jacobian
PYTHONS = ('python3.14', 'python3.13', 'python3.12', 'python3.11')

USE = """
import sys

import jax
import jax.numpy as jnp
import optax

import mimo_jax
from mimo_jax import nn

names = 'audio', 'visual'
model = nn.LateFusion({name: nn.MLP((8,)) for name in names}, num_classes=3)
batch = {name: jax.random.normal(jax.random.key(5), (30, 4)) for name in names}
labels = jnp.arange(30) % 3
start = model.init(jax.random.key(0), batch)['params']

def losses_fn(params):
  return nn.cross_entropy_losses(model.apply({'params': params}, batch), labels)

for name in sys.argv[1:] or mimo_jax.weightings.__all__:
  rule = getattr(mimo_jax.weightings, name)()
  if rule.extra_args:  # more than a batch
    continue
  optimizer = optax.chain(
    mimo_jax.balance(rule, objectives=('fused', *names)), optax.adam(0.01)
  )

  @jax.jit
  def train_step(params, state):
    losses, pullback = jax.vjp(losses_fn, params)
    updates, state = optimizer.update(pullback, state, params, losses=losses)
    return optax.apply_updates(params, updates), state, losses['fused']

  params, state = start, optimizer.init(start)
  for _ in range(5):
    params, state, loss = train_step(params, state)
  assert jnp.isfinite(loss), name
  assert loss < losses_fn(start)['fused'], name
print(f'mimo_jax {mimo_jax.__version__} works with jax {jax.__version__}')
"""


def run(*command: str | pathlib.Path, **options: object) -> str:
  """Runs a command and returns its output; if it fails, prints it and exits."""
  result = subprocess.run(
    [*map(str, command)], capture_output=True, text=True, check=False, **options
  )
  if result.returncode:
    sys.exit(f'{result.stdout}{result.stderr}\nfailed: {command}')
  return result.stdout.strip()


def build(
  output: pathlib.Path, *options: str
) -> tuple[pathlib.Path, pathlib.Path]:
  """Builds the sdist, and the wheel from it."""
  shutil.rmtree(output, ignore_errors=True)
  with tempfile.TemporaryDirectory() as copy:  # a build leaves files behind
    for name in ('setup.py', 'setup.cfg', 'LICENSE', 'README.md'):
      shutil.copy(ROOT / name, copy)
    for name in ('mimo_jax', 'experiments', 'data_pipelines', 'tests'):
      shutil.copytree(ROOT / name, pathlib.Path(copy, name))
    run(sys.executable, '-m', 'build', *options, '--outdir', output, copy)
  return next(output.glob('*.tar.gz')), next(output.glob('*.whl'))


def pythons() -> dict[str, pathlib.Path]:
  """Finds the versions of Python on this machine, the newest first."""
  paths = os.environ['PATH'].split(os.pathsep)
  if shutil.which('pyenv'):  # its Pythons need not be on the path
    versions = pathlib.Path(run('pyenv', 'root'), 'versions')
    paths += map(str, sorted(versions.glob('*/bin'), reverse=True))
  found = {}
  for name in PYTHONS:
    for path in paths:
      file = pathlib.Path(path, name)
      if 'shims' not in path and file.exists():
        found.setdefault(name, file)
  return found


def least() -> list[str]:
  """Returns the oldest versions that the wheel and its extra `nn` allow."""
  settings = configparser.ConfigParser()
  settings.read(ROOT / 'setup.cfg')
  lines = (
    settings['options']['install_requires']
    + settings['options.extras_require']['nn']
  )
  return re.sub(r' *>= *', '==', lines).split()


def use(
  python: pathlib.Path,
  wheel: pathlib.Path,
  versions: Sequence[str] = (),
  rules: Sequence[str] = (),
) -> None:
  """Installs the wheel in an empty environment, and trains by rules."""
  with tempfile.TemporaryDirectory() as folder:
    run(python, '-m', 'venv', folder)
    own = pathlib.Path(folder, 'bin', 'python')
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    install = '-m', 'pip', 'install', '--quiet', '--no-compile'
    run(own, *install, f'{wheel}[nn]', *versions)
    used = run(own, '-c', USE, *rules, cwd=folder, env=environment)
    print(used, end=', ')
    print(run(own, '--version'), *versions, flush=True)


def main() -> None:
  """Builds the release and uses it."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
  parser.add_argument('--every', action='store_true')
  parser.add_argument('--output', type=pathlib.Path, default=ROOT / 'dist')
  arguments = parser.parse_args()
  _, wheel = build(arguments.output)
  found = list(pythons().values())
  if not arguments.every:
    use(found[0], wheel, rules=RULES)
    return
  for python in found:
    use(python, wheel)
    use(python, wheel, least())


if __name__ == '__main__':
  main()
