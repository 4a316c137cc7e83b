"""Exports a trained model: a program that runs without this project.

  python -m experiments.export --run=RUN [--output=FOLDER]

RUN is the directory of a run of `experiments.train`. FOLDER, by default
`export` in RUN, gets

- `model.jax_export`: the model in evaluation mode, as one StableHLO program for
  CPUs, GPUs and TPUs and any number of rows. Its parameters, and the statistics
  that standardise its inputs, are inside;
- `params.safetensors`: the model's parameters and batch statistics by name;
- `inputs.json`: the shapes and types of the inputs, the names of the outputs,
  and for your own data the names of the classes.

To run it you need only JAX, and `flatbuffers` to read it:

    import jax.export, numpy  # pip install jax flatbuffers

    model = jax.export.deserialize(open('model.jax_export', 'rb').read())
    outputs = model.call({'fou': ..., 'pix': ...}, numpy.ones(2, bool))

The second argument says for each modality, in alphabetical order, whether the
rows have it. Rows that lack another modality need a call of their own. If the
run has views (`config.data.views`, as for a folder of files), the program takes
what these make, not the files.
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
