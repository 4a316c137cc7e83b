"""Kaldi's logarithmic mel filter bank, for whole arrays of frames at once.

Kaldi itself, and therefore kaldi_native_fbank, refuses filters so narrow that
no frequency of the transform lies in one. One of the field's 128 filters at
16 kHz is so narrow. Torchaudio leaves it at the floor, and so does this module.
"""

import functools

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra

with _extra.data_extra():
  import scipy.fft
  import scipy.sparse

Floats = npt.NDArray[np.float32]

LOWEST_FREQUENCY = 20.0  # Hz; the highest is half the sample rate.
PRE_EMPHASIS = np.float32(0.97)
FLOOR = np.finfo(np.float32).eps
# Frames per block. Small blocks stay in the processor's cache, which is three
# times as fast as all frames at once.
_BLOCK = 64


def filter_bank(samples: Floats, sample_rate: int, num_filters: int) -> Floats:
  """Computes the logarithm of each frame's energy in mel-spaced filters.

  Frames of 25 ms start every 10 ms and lie wholly in the signal. For each
  frame, its mean is subtracted; it is pre-emphasised (xᵢ - 0.97 xᵢ₋₁, where the
  first sample precedes itself), multiplied by a symmetric Hann window and
  padded to a power of two; then triangular filters of equal width in mel,
  1127 ln(1 + f / 700), weight its power spectrum. This is what
  `torchaudio.compliance.kaldi.fbank` computes with `window_type='hanning'` and
  `dither=0`.

  Returns:
    [frames, num_filters]; no frames if the signal is shorter than 25 ms.

  Examples:
    >>> import numpy as np
    >>> filter_bank(np.zeros(720, np.float32), 16_000, 2)
    array([[-15.9, -15.9],
           [-15.9, -15.9],
           [-15.9, -15.9]], dtype=float32)
  """
  length, shift = frame_sizes(sample_rate)
  if len(samples) < length:
    return np.zeros([0, num_filters], np.float32)
  frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::shift]
  window = np.hanning(length).astype(np.float32)
  filters = _filters(sample_rate, num_filters)
  energies = np.empty([len(frames), num_filters], np.float32)
  for start in range(0, len(frames), _BLOCK):
    block = slice(start, start + _BLOCK)
    energies[block] = (filters @ _power(frames[block], window).T).T
  return np.log(np.maximum(energies, FLOOR))


def frame_sizes(sample_rate: int) -> tuple[int, int]:
  """Samples in a frame (25 ms), and from one frame's start to the next (10 ms).

  Examples:
    >>> frame_sizes(16_000)
    (400, 160)
  """
  return sample_rate * 25 // 1000, sample_rate * 10 // 1000


def _power(frames: Floats, window: Floats) -> Floats:
  """Returns the power spectra of frames, [frames, frequencies]."""
  frames = frames - frames.mean(axis=1, keepdims=True)
  emphasised = frames.copy()
  emphasised[:, 0] -= PRE_EMPHASIS * frames[:, 0]
  emphasised[:, 1:] -= PRE_EMPHASIS * frames[:, :-1]
  spectra = scipy.fft.rfft(emphasised * window, _padded(len(window)))
  return np.square(spectra.real) + np.square(spectra.imag)


def _padded(length: int) -> int:
  """Returns the smallest power of two that is at least `length`."""
  return 1 << (length - 1).bit_length()


@functools.cache
def _filters(sample_rate: int, num_filters: int) -> scipy.sparse.csr_array:
  """Returns the weights of each frequency in each filter, [M, frequencies].

  They are sparse because nearly all are zero, and because a dense product
  starts threads. Those of several processes compete for the cores: two
  processes made a third as many items a second.
  """
  size = _padded(frame_sizes(sample_rate)[0])
  edges = np.linspace(
    _mel(LOWEST_FREQUENCY), _mel(sample_rate / 2), num_filters + 2
  )
  frequencies = _mel(np.arange(size // 2 + 1) * sample_rate / size)[:, None]
  rise = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
  fall = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
  weights = np.maximum(np.minimum(rise, fall), 0).astype(np.float32)
  return scipy.sparse.csr_array(weights.T)


def _mel(frequency: npt.ArrayLike) -> npt.NDArray[np.float64]:
  return 1127 * np.log1p(np.asarray(frequency) / 700)
