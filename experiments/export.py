"""Exports a trained model: a program that runs without this project.

  python -m experiments.export --run=RUN [--output=FOLDER]

RUN is the directory of a run of `experiments.train`. The folder, `export` in it
by default, gets

- `model.jax_export`: the model in evaluation mode as one StableHLO program, for
  CPUs, GPUs and TPUs, of any number of rows, with its parameters and the
  statistics that its inputs are standardised by inside;
- `params.safetensors`: the model's parameters and batch statistics by name;
- `inputs.json`: the inputs' shapes and types, the outputs' names, and what the
  classes of your own data are called.

To run it JAX is enough:

    model = jax.export.deserialize(open('model.jax_export', 'rb').read())
    outputs = model.call({'fou': ..., 'pix': ...}, numpy.ones(2, bool))

The second argument says of each modality, in the order of the alphabet, whether
it is there.
"""

from experiments.core import commands
from experiments.core import exporting
from experiments.core import trained


@commands.in_one_message
def main() -> None:
  """Exports, and prints where it is."""
  parser = commands.of_a_run(__doc__)
  parser.add_argument(
    '--output', type=commands.path, help='a folder; default: `export` in RUN'
  )
  given = parser.parse_args()
  folder = given.output or given.run / 'export'
  exporting.export(trained.load(given.run), folder)
  print(f'The exported model is in {folder}.')


if __name__ == '__main__':
  main()
