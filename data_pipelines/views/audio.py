"""Audio front ends of the field: each makes a picture of a stored signal.

Each of these views takes a mono signal of 16-bit integers and returns a float32
picture with one channel, scaled as its authors do. Short signals are repeated
from their start, so that a picture is full whatever the length. Signals whose
rate is not the authors' are resampled. All views have two attributes: `source`,
the name of the stored signal ('audio'), and `sample_rate`, its rate in Hz
(16,000).
"""

import abc
import dataclasses

import numpy as np
import numpy.typing as npt

from data_pipelines import _extra
from data_pipelines import sources
from data_pipelines.views import _kaldi

with _extra.data_extra():
  # Both load their submodules on first use, so importing them is cheap.
  import librosa
  import scipy

Floats = npt.NDArray[np.float32]

_RATE = 16_000
# 16-bit integers to [-1, 1).
_SCALE = np.float32(1 / 32_768)
_LOG_OFFSET = 1e-7
# OGM's authors subtract this mean from log energies, then divide by two
# deviations.
_FILTER_BANK_MEAN = np.float32(-4.503877)
_TWO_DEVIATIONS = np.float32(2 * 5.141276)


@dataclasses.dataclass(frozen=True)
class _FrontEnd(abc.ABC):
  """Makes a picture of a stored signal.

  Attributes:
    source: Name of the stored signal.
    sample_rate: Of the stored signal, in Hz.
  """

  source: str = 'audio'
  sample_rate: int = _RATE

  def __call__(
    self, element: sources.Element, random: np.random.Generator | None
  ) -> Floats:
    """Makes the picture of a signal, int16 [n]; see `View`.

    Returns:
      [frequency, time, 1]; for `FilterBank`, [time, mel, 1].

    Raises:
      ValueError: if the signal is missing, empty, or not int16 [n].
    """
    signal = np.asarray(sources.entry(element, self.source))
    if signal.dtype != np.int16 or signal.ndim != 1 or not len(signal):
      raise ValueError(
        f'Expected {self.source!r} to be a mono signal, int16 [n], n at least'
        f' 1, got {signal.dtype} {list(signal.shape)}. Leave elements without'
        ' sound out when the data set is prepared.'
      )
    return self._picture(signal, random)[..., None]

  @abc.abstractmethod
  def _picture(
    self, signal: npt.NDArray[np.int16], random: np.random.Generator | None
  ) -> Floats:
    """Makes the picture of a signal; each front end implements it."""

  def _samples(self, signal: npt.NDArray[np.int16], rate: int) -> Floats:
    """Returns the signal in [-1, 1), resampled by SoX if necessary."""
    samples = signal * _SCALE
    if self.sample_rate == rate:
      return samples
    return librosa.resample(samples, orig_sr=self.sample_rate, target_sr=rate)


class Stft3s(_FrontEnd):
  """OGM's and AGM's picture of CREMA-D: log magnitudes of 3 seconds.

  The signal is resampled to 22,050 Hz, repeated, cut to the first 3 s and
  clipped to [-1, 1]. Hann windows of 512 samples are centred 353 samples apart,
  with zeros beyond the ends; the result is ln(magnitude + 1e-7). Nothing is
  random. Older versions of librosa, which the authors may have used, mirror the
  signal at its ends, which changes the first and the last column.

  Examples:
    >>> import numpy as np
    >>> picture = Stft3s()({'audio': np.zeros(40_000, np.int16)}, None)
    >>> picture.shape, picture[0, 0].item()
    ((257, 188, 1), -16.118)
  """

  def _picture(
    self, signal: npt.NDArray[np.int16], random: np.random.Generator | None
  ) -> Floats:
    del random
    samples = np.resize(self._samples(signal, 22_050), 3 * 22_050)
    # Resampling can overshoot the full scale.
    return _log_magnitude(np.clip(samples, -1, 1), window=512, hop=353)


class Stft5s(_FrontEnd):
  """OGM's and PMR's picture of VGGSound: log magnitudes of 5 seconds of 10.

  The signal is repeated to 10 s and cut to 5 s. The cut starts anywhere in the
  first 5 s, uniformly; in evaluation (no generator) it starts at 2.5 s. Hann
  windows of 256 samples are centred 128 samples apart; the result is
  ln(magnitude + 1e-7). OGM and PMR draw the start in the test as well, so their
  result varies; this view does not.

  Examples:
    >>> import numpy as np
    >>> second_half = np.repeat(np.int16([0, 9]), 80_000)
    >>> element = {'audio': second_half}
    >>> Stft5s()(element, None)[0, [0, 625], 0].tolist()
    [-16.118, -4.049]
    >>> Stft5s()(element, np.random.default_rng(0)).shape
    (129, 626, 1)
  """

  def _picture(
    self, signal: npt.NDArray[np.int16], random: np.random.Generator | None
  ) -> Floats:
    length = 5 * _RATE
    start = length // 2 if random is None else int(random.integers(length + 1))
    samples = np.resize(self._samples(signal, _RATE), start + length)
    return _log_magnitude(samples[start:], window=256, hop=128)


class Psd10s(_FrontEnd):
  """The picture of AVE, Kinetics-Sounds and VGGSound: densities of 10 seconds.

  The signal is repeated and cut to the first 10 s. From windows of 512 samples,
  159 samples apart, the mean is subtracted; then they are multiplied by a Tukey
  window (a quarter tapered). ln(power density + 1e-7) is shifted and scaled to
  mean 0 and deviation 1 in each picture (deviation + 1e-9, so that a constant
  one becomes 0). This is OGM's older front end, PMR's for AVE, and that of
  VGGSound's authors.

  Examples:
    >>> import numpy as np
    >>> picture = Psd10s()({'audio': np.arange(9000, dtype=np.int16)}, None)
    >>> picture.shape, picture.std().item()
    ((257, 1004, 1), 1.000)
  """

  _SECONDS = 10

  def _picture(
    self, signal: npt.NDArray[np.int16], random: np.random.Generator | None
  ) -> Floats:
    del random
    samples = np.resize(self._samples(signal, _RATE), self._SECONDS * _RATE)
    _, _, density = scipy.signal.spectrogram(
      samples, _RATE, nperseg=512, noverlap=353
    )
    picture = np.log(density + _LOG_OFFSET)
    # In float64 the mean of equal values is exact, so silence becomes 0.
    picture -= picture.mean(dtype=np.float64)
    picture /= np.sqrt(np.mean(np.square(picture))) + 1e-9
    return picture


class Psd3s(Psd10s):
  """PMR's picture of CREMA-D: `Psd10s` of 3 seconds.

  Examples:
    >>> import numpy as np
    >>> Psd3s()({'audio': np.arange(9000, dtype=np.int16)}, None).shape
    (257, 299, 1)
  """

  _SECONDS = 3


class FilterBank(_FrontEnd):
  """OGM's picture of Kinetics-Sounds: Kaldi's filter bank of 10.26 seconds.

  Logarithms of the energies in 128 mel filters, every 10 ms (see
  `torchaudio.compliance.kaldi.fbank`, with a Hann window and no dither), cut or
  padded with zeros to 1,024 frames, then (x + 4.503877) / (2 · 5.141276).
  MMPareto and BalanceBenchmark are said to use it for CREMA-D too.

  The picture is time x mel; those of all other views are frequency x time. The
  signal is not resampled: filters span 20 Hz to half of its rate.

  Examples:
    >>> import numpy as np
    >>> picture = FilterBank()({'audio': np.zeros(560, np.int16)}, None)
    >>> picture.shape, picture[1, 0].item(), picture[2, 0].item()
    ((1024, 128, 1), -1.112, 0.438)
  """

  def _picture(
    self, signal: npt.NDArray[np.int16], random: np.random.Generator | None
  ) -> Floats:
    del random
    length, shift = _kaldi.frame_sizes(self.sample_rate)
    signal = signal[: length + 1023 * shift]
    # The authors first subtract the signal's mean. That is redundant: the
    # filter bank subtracts the mean of every frame.
    energies = _kaldi.filter_bank(signal * _SCALE, self.sample_rate, 128)
    picture = np.zeros([1024, 128], np.float32)
    picture[: len(energies)] = energies
    return (picture - _FILTER_BANK_MEAN) / _TWO_DEVIATIONS


def _log_magnitude(samples: Floats, window: int, hop: int) -> Floats:
  """Returns ln(|short-time Fourier transform| + 1e-7)."""
  magnitude = np.abs(
    librosa.stft(samples, n_fft=window, hop_length=hop, pad_mode='constant')
  )
  return np.log(magnitude + _LOG_OFFSET)
