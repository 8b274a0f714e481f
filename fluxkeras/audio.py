"""Sounds and their spectra: windows, short-time Fourier transforms, decibels, mel filters.

Sequences are arrays of shape `(…, samples)`; their spectra `(…, frames, frequencies)`.
"""

from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.activations import float_tensor
from fluxkeras.checks import ShapeError, warn

__all__ = [
    "db_to_power",
    "hamming_window",
    "hann_window",
    "istft",
    "melscale_filterbanks",
    "power_to_db",
    "spectrogram",
    "stft",
]

Tensor: TypeAlias = Any


# --- Windows -------------------------------------------------------------------------------------


def hamming_window(
    window_length: int,
    dtype: Any = None,
    *,
    periodic: bool = True,
    α: float = 0.54,
    β: float = 0.46,
) -> Tensor:
    """A window that falls off towards both ends like a cosine, but not to 0.

    `w[k] = α - β * cos(2 * π * k / n)`, where `n` is the length, or, if not `periodic`, one less

    Args:
        window_length: how many numbers.
        dtype: of the numbers; by default Keras's, `keras.config.floatx()`.
        periodic: whether it goes on periodically, as is right for spectra; else it is symmetric.
        α: the mean.
        β: how far it falls.

    Returns:
        A vector of that length.

    Raises:
        ValueError: if the length is no whole number from 1, or from 2 for a symmetric window.

    Example:
        >>> print(hamming_window(4).numpy().round(2))
        [0.08 0.54 1.   0.54]

    Source: NNlib's `hamming_window`. `tf.signal`'s has the same `n` for an odd length, periodic or
    not.
    """
    least = 1 if periodic else 2
    if not isinstance(window_length, int | np.integer) or window_length < least:
        raise ValueError(
            f"a window expects its length, a whole number from {least}, got {window_length!r}."
        )
    n = window_length if periodic else window_length - 1
    window = α - β * np.cos(2 * np.pi * np.arange(window_length) / n)
    return tf.cast(window, dtype or keras.config.floatx())


def hann_window(window_length: int, dtype: Any = None, *, periodic: bool = True) -> Tensor:
    """A window that falls to 0 towards both ends like a cosine.

    `w[k] = (1 - cos(2 * π * k / n)) / 2`, where `n` is the length, or, if not `periodic`, one less

    Args:
        window_length: how many numbers.
        dtype: of the numbers; by default Keras's, `keras.config.floatx()`.
        periodic: as in `hamming_window`.

    Returns:
        A vector of that length.

    Raises:
        ValueError: as `hamming_window`.

    Example:
        >>> print(hann_window(4).numpy().round(2))
        [0.  0.5 1.  0.5]

    Source: NNlib's `hann_window`.
    """
    return hamming_window(window_length, dtype, periodic=periodic, α=0.5, β=0.5)


# --- Spectra -------------------------------------------------------------------------------------


def stft(
    x: Any,
    *,
    n_fft: int,
    hop_length: int | None = None,
    window: Any = None,
    center: bool = True,
    normalized: bool = False,
) -> Tensor:
    """The short-time Fourier transform: the spectra of frames that move over a sequence.

    `y[m, ω] = sum(window[k] * x[m * hop_length + k] * exp(-2j * π * ω * k / n_fft) for k in
    range(n_fft))`

    Args:
        x: an array of shape `(…, samples)`, of real or complex numbers.
        n_fft: how many samples a frame has.
        hop_length: by how many samples a frame moves on; by default `n_fft // 4`.
        window: what a frame is multiplied with: a vector of at most `n_fft` numbers, which zeros
            surround if it is shorter; none by default.
        center: whether `x` is reflected at both ends, so that the frame `m` is centred at the
            sample `m * hop_length`.
        normalized: whether the result is divided by `sqrt(n_fft)`.

    Returns:
        A complex tensor of shape `(…, frames, n_fft // 2 + 1)`; of complex `x`, `(…, frames,
        n_fft)`.

    Raises:
        ValueError: if an option is not as above.
        ShapeError: if there are too few samples for one frame, or the window is too long.

    Example:
        >>> y = stft(np.ones(16), n_fft=16)
        >>> y.shape, y[:, 0].numpy().real.round(4).tolist()
        (TensorShape([5, 9]), [16.0, 16.0, 16.0, 16.0, 16.0])

    Source: NNlib's `stft`, of shape `(frequencies, frames, batch)`.
    """
    x = float_tensor(x)
    hop_length, window = _framing("stft", n_fft, hop_length, window, x.dtype)
    samples = x.shape[-1] if len(x.shape) else 0
    least = max(n_fft - 2 * (n_fft // 2), n_fft // 2 + 1) if center else n_fft
    if samples is not None and samples < least:
        raise ShapeError(
            f"stft expects at least {least} samples along the last axis for n_fft={n_fft}, got "
            f"an array of shape {tuple(x.shape)}."
        )
    if center:
        edges = [[0, 0]] * (len(x.shape) - 1) + [[n_fft // 2, n_fft // 2]]
        x = tf.pad(x, edges, "REFLECT")
    frames = tf.signal.frame(x, n_fft, hop_length)
    frames = frames if window is None else frames * tf.cast(window, x.dtype)
    y = tf.signal.fft(frames) if x.dtype.is_complex else tf.signal.rfft(frames)
    return y * tf.cast(n_fft**-0.5, y.dtype) if normalized else y


def istft(
    y: Any,
    *,
    n_fft: int,
    hop_length: int | None = None,
    window: Any = None,
    center: bool = True,
    normalized: bool = False,
    return_complex: bool = False,
    original_length: int | None = None,
) -> Tensor:
    """The sequence of which `y` is the short-time Fourier transform.

    `istft(stft(x, …), …, original_length=len(x)) == x`. If `y` is no such transform, it is the
    sequence whose own is closest to `y`: the frames, multiplied with the window, are added up where
    they lie, and divided by the sum of the squares of the windows there.

    Args:
        y: a complex array of shape `(…, frames, n_fft // 2 + 1)`, or `(…, frames, n_fft)` if
            `return_complex`.
        n_fft: as in `stft`, as are the options below.
        hop_length: by how many samples a frame moved on; by default `n_fft // 4`.
        window: what the frames were multiplied with.
        center: whether the sequence was reflected at both ends.
        normalized: whether `y` was divided by `sqrt(n_fft)`.
        return_complex: whether the sequence is complex.
        original_length: how many samples it had. Without it, those after the middle of the last
            frame are missing, if it was centred.

    Returns:
        A tensor of shape `(…, samples)`.

    Raises:
        ValueError: if an option is not as above.
        ShapeError: if `y` has not as many frequencies, or too few frames for `original_length`.

    Example:
        >>> x = np.sin(np.arange(100.0))
        >>> y = stft(x, n_fft=16, window=hann_window(16))
        >>> again = istft(y, n_fft=16, window=hann_window(16), original_length=100)
        >>> bool(np.allclose(again, x, atol=1e-5))
        True

    Source: NNlib's `istft`, which calls itself the estimate of least squares; Griffin and Lim,
    1984.
    """
    y = tf.convert_to_tensor(y)
    kind = y.dtype if return_complex else y.dtype.real_dtype
    hop_length, window = _framing("istft", n_fft, hop_length, window, kind)
    frequencies = n_fft if return_complex else n_fft // 2 + 1
    if not y.dtype.is_complex or len(y.shape) < 2 or y.shape[-1] not in (None, frequencies):
        raise ShapeError(
            f"istft expects complex numbers of shape (…, frames, {frequencies}), got "
            f"{y.dtype.name} of shape {tuple(y.shape)}."
        )
    frames = tf.signal.ifft(y) if return_complex else tf.signal.irfft(y, [n_fft])
    frames *= tf.cast(n_fft**0.5 if normalized else 1, frames.dtype)
    window = tf.ones([n_fft], frames.dtype) if window is None else tf.cast(window, frames.dtype)
    squares = tf.broadcast_to(window**2, tf.shape(frames)[-2:])
    x = tf.math.divide_no_nan(
        tf.signal.overlap_and_add(frames * window, hop_length),
        tf.signal.overlap_and_add(squares, hop_length),
    )
    start = n_fft // 2 if center else 0
    stop = tf.shape(x)[-1] - start if original_length is None else start + original_length
    if original_length is not None and x.shape[-1] is not None and stop > x.shape[-1]:
        raise ShapeError(
            f"istft expects frames of {original_length} samples, got {y.shape[-2]} frames, of "
            f"{x.shape[-1] - start} samples."
        )
    return x[..., start:stop]


def spectrogram(
    waveform: Any,
    *,
    n_fft: int,
    hop_length: int,
    window: Any,
    pad: int = 0,
    center: bool = True,
    power: float = 2.0,
    normalized: bool = False,
    window_normalized: bool = False,
) -> Tensor:
    """How loud each frequency is over time.

    `abs(stft(waveform, …)) ** power`

    Args:
        waveform: an array of shape `(…, samples)`.
        n_fft: as in `stft`, as are `hop_length`, `window`, `center` and `normalized`.
        hop_length: by how many samples a frame moves on.
        window: what a frame is multiplied with, or None.
        pad: how many zeros surround the waveform first.
        center: whether the waveform is reflected at both ends.
        power: 1 for magnitudes, 2 for power; 0 for the complex numbers themselves.
        normalized: whether the transform is divided by `sqrt(n_fft)`.
        window_normalized: whether the transform is divided by the norm of the window.

    Returns:
        A tensor of shape `(…, frames, n_fft // 2 + 1)`.

    Raises:
        ValueError: if `pad` or `power` is below 0, or there is no window to normalise by; as
            `stft`.
        ShapeError: as `stft`.

    Example:
        >>> x = np.sin(2 * np.pi * 4 * np.arange(64) / 16)  # 4 periods in 16 samples
        >>> s = spectrogram(x, n_fft=16, hop_length=16, window=hann_window(16), center=False)
        >>> s.shape, np.argmax(s, -1).tolist()
        (TensorShape([4, 9]), [4, 4, 4, 4])

    Source: NNlib's `spectrogram`, of shape `(frequencies, frames, batch)`.
    """
    if not isinstance(pad, int | np.integer) or pad < 0 or power < 0:
        raise ValueError(f"spectrogram expects pad and power from 0, got {pad!r} and {power!r}.")
    if window_normalized and window is None:
        raise ValueError("spectrogram expects a window to normalise by, got None.")
    x = float_tensor(waveform)
    if pad:
        x = tf.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[pad, pad]])
    y = stft(
        x, n_fft=n_fft, hop_length=hop_length, window=window, center=center, normalized=normalized
    )
    if window_normalized:
        y /= tf.cast(tf.norm(float_tensor(window)), y.dtype)
    # Flux's, which leaves silence a gradient: the root of 0 has none.
    tiny = np.finfo(x.dtype.real_dtype.as_numpy_dtype).eps
    return tf.abs(y + tf.cast(tiny, y.dtype)) ** power if power else y


def power_to_db(s: Any, *, ref: float = 1.0, amin: float = 1e-10, top_db: float = 80.0) -> Tensor:
    """Power in decibels.

    `d = 10 * log10(max(s, amin) / max(ref, amin))`, and at least `max(d) - top_db`, where the
    greatest is that of the whole array

    Args:
        s: an array of powers, such as a `spectrogram`.
        ref: the power that is 0 dB.
        amin: the least power that counts.
        top_db: how many decibels below the greatest one the least can be.

    Returns:
        A tensor of the same shape, in dB.

    Example:
        >>> power_to_db([1.0, 10.0, 100.0, 0.0]).numpy().tolist()
        [0.0, 10.0, 20.0, -60.0]

    Source: NNlib's `power_to_db`.
    """
    s = float_tensor(s)
    decibels = 10 / np.log(10) * (tf.math.log(tf.maximum(s, amin)) - np.log(max(ref, amin)))
    return tf.maximum(decibels, tf.reduce_max(decibels) - top_db)


def db_to_power(s_db: Any, *, ref: float = 1.0) -> Tensor:
    """Decibels as power, the reverse of `power_to_db`.

    `ref * 10 ** (s_db / 10)`

    Args:
        s_db: an array, in dB.
        ref: the power that is 0 dB.

    Returns:
        A tensor of the same shape.

    Example:
        >>> db_to_power([0.0, 10.0, 20.0]).numpy().round(3).tolist()
        [1.0, 10.0, 100.0]

    Source: NNlib's `db_to_power`.
    """
    return ref * tf.pow(tf.constant(10, float_tensor(s_db).dtype), float_tensor(s_db) / 10)


def melscale_filterbanks(
    *,
    n_freqs: int,
    n_mels: int,
    sample_rate: int,
    fmin: float = 0.0,
    fmax: float | None = None,
) -> Tensor:
    """Triangular filters, evenly spaced on the mel scale, one in each column.

    `max(0, min((f - f0) / (f1 - f0), (f2 - f) / (f2 - f1)))` for a filter from `f0` over its peak
    `f1` to `f2`, where `mel(f) = 2595 * log10(1 + f / 700)`

    Args:
        n_freqs: how many frequencies a spectrum has, `n_fft // 2 + 1`, from 0 to half the rate.
        n_mels: how many filters.
        sample_rate: samples a second.
        fmin: where the first filter begins, in Hz.
        fmax: where the last filter ends, in Hz; by default `sample_rate // 2`.

    Returns:
        A tensor of shape `(n_freqs, n_mels)`, of Keras's dtype: `spectrogram(…) @ filters`.

    Raises:
        ValueError: if the numbers are not above 0, or `fmin` not below `fmax`.

    Example:
        >>> filters = melscale_filterbanks(n_freqs=201, n_mels=8, sample_rate=16000)
        >>> x = np.ones(800, "float32")
        >>> (spectrogram(x, n_fft=400, hop_length=200, window=None) @ filters).shape
        TensorShape([5, 8])

    Source: NNlib's `melscale_filterbanks`. The triangles of TensorFlow's
    `linear_to_mel_weight_matrix` are straight on the mel scale.
    """
    fmax = sample_rate // 2 if fmax is None else fmax
    if min(n_freqs, n_mels, sample_rate) < 1 or not 0 <= fmin < fmax:
        raise ValueError(
            "melscale_filterbanks expects n_freqs, n_mels and sample_rate from 1, and fmin below "
            f"fmax, got {n_freqs}, {n_mels}, {sample_rate}, {fmin} and {fmax}."
        )
    first, last = (2595 * np.log10(1 + f / 700) for f in (fmin, fmax))
    mels = np.linspace(first, last, n_mels + 2)
    points = 700 * (10 ** (mels / 2595) - 1)
    distances = points - np.linspace(0, sample_rate // 2, n_freqs)[:, np.newaxis]
    widths = np.diff(points)
    filters = np.minimum(-distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:])
    filters = np.maximum(filters, 0)
    if not np.all(filters.max(0)):
        warn(
            f"a mel filter is zero everywhere: n_mels={n_mels} are too many, or n_freqs={n_freqs} "
            "too few."
        )
    return tf.cast(filters, keras.config.floatx())


def _framing(
    owner: str, n_fft: int, hop_length: int | None, window: Any, dtype: tf.DType
) -> tuple[int, Tensor | None]:
    """By how much a frame moves on, and the window, as long as the frame."""
    hop_length = n_fft // 4 if hop_length is None else hop_length
    for name, number in {"n_fft": n_fft, "hop_length": hop_length}.items():
        if not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{owner} expects {name} to be a whole number from 1, got {number!r}.")
    if window is None:
        return hop_length, None
    window = tf.cast(float_tensor(window), dtype.real_dtype)
    length = window.shape[0] if len(window.shape) == 1 else 0
    if not 0 < length <= n_fft:
        raise ShapeError(
            f"{owner} expects a window of at most n_fft={n_fft} numbers, got one of shape "
            f"{tuple(window.shape)}."
        )
    before = (n_fft - length) // 2
    return hop_length, tf.pad(window, [[before, n_fft - length - before]])
