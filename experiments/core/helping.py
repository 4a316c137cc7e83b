"""What `--help` of commands prints that take a configuration."""

import sys
import textwrap

from absl import flags


def text(about: str) -> str:
  """What a command does, and the flags it has."""
  own = flags.FLAGS.flags_by_module_dict()
  lines = [about.strip(), '', 'Flags:']
  for module, found in own.items():
    if module.startswith('experiments.') or module in ('__main__', sys.argv[0]):
      for flag in found:
        if flag.help and flag.name != 'config':
          default = f' (default: {flag.default})' if flag.default else ''
          lines += _wrapped(f'--{flag.name}: {flag.help}{default}')
  lines += _wrapped(
    '--config: Configuration file, as experiments/configs/handwritten.py[:arg];'
    ' the file says which words it takes after the colon. Each of its values'
    ' can be changed: --config.optimizer.learning_rate=0.01.'
  )
  return '\n'.join(lines)


def _wrapped(line: str) -> list[str]:
  return textwrap.wrap(
    line, width=80, initial_indent='  ', subsequent_indent='      '
  )
