import re

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ShapeError,
    db_to_power,
    hamming_window,
    hann_window,
    istft,
    melscale_filterbanks,
    power_to_db,
    spectrogram,
    stft,
)

rng = np.random.default_rng(0)


# --- Windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 9, 10])
def test_windows_are_numpys(n):
    np.testing.assert_allclose(hann_window(n, periodic=False), np.hanning(n), atol=1e-7)
    np.testing.assert_allclose(hamming_window(n, periodic=False), np.hamming(n), atol=1e-7)
    np.testing.assert_allclose(hann_window(n), np.hanning(n + 1)[:-1], atol=1e-7)
    np.testing.assert_allclose(hamming_window(n), np.hamming(n + 1)[:-1], atol=1e-7)


def test_windows_have_a_dtype_and_coefficients():
    assert hann_window(4).dtype == "float32"
    window = hamming_window(6, "float64", α=0.5, β=0.5)
    assert window.dtype == "float64"
    np.testing.assert_allclose(window, hann_window(6, tf.float64), atol=1e-15)


# --- Spectra -------------------------------------------------------------------------------------


def naive_stft(x, n_fft, hop_length=None, window=None, center=True, normalized=False):
    """The formula, one number at a time, of a vector."""
    hop_length = hop_length or n_fft // 4
    if window is None:
        window = np.ones(n_fft)
    before = (n_fft - len(window)) // 2
    window = np.pad(window, (before, n_fft - len(window) - before))
    if center:
        x = np.pad(x, n_fft // 2, mode="reflect")
    k, ω = np.arange(n_fft), np.arange(n_fft if np.iscomplexobj(x) else n_fft // 2 + 1)
    waves = np.exp(-2j * np.pi * ω[:, np.newaxis] * k / n_fft)
    starts = range(0, len(x) - n_fft + 1, hop_length)
    y = np.stack([waves @ (window * x[s : s + n_fft]) for s in starts])
    return y / np.sqrt(n_fft) if normalized else y


OPTIONS = [
    {},
    {"hop_length": 5},
    {"center": False},
    {"normalized": True},
    {"window": np.hanning(17)[:-1]},
    {"window": np.hamming(11), "hop_length": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("n_fft", [16, 15])
@pytest.mark.parametrize("is_complex", [False, True])
def test_stft_is_the_formula(options, n_fft, is_complex):
    x = rng.normal(size=(2, 50)) + (1j * rng.normal(size=(2, 50)) if is_complex else 0)
    if "window" in options:
        options = options | {"window": options["window"][:n_fft]}

    y = stft(x, n_fft=n_fft, **options)

    expected = [naive_stft(one, n_fft, **options) for one in x]
    np.testing.assert_allclose(y, expected, atol=1e-10)
    np.testing.assert_allclose(stft(x[0], n_fft=n_fft, **options), expected[0], atol=1e-10)


@pytest.mark.parametrize("n_fft", [32, 33, 64])
@pytest.mark.parametrize("hop_length", [None, 7, 31, 32])
@pytest.mark.parametrize("window", [None, "hann"])
@pytest.mark.parametrize("normalized", [False, True])
def test_istft_is_the_inverse(n_fft, hop_length, window, normalized):
    x = rng.normal(size=(3, 211))
    options = {"n_fft": n_fft, "hop_length": hop_length, "normalized": normalized}
    if window:
        options["window"] = np.hanning(n_fft + 2)[1:-1]
    y = stft(x, **options)

    np.testing.assert_allclose(istft(y, original_length=200, **options), x[:, :200], atol=1e-9)
    shorter = istft(y, **options)
    np.testing.assert_allclose(shorter, x[:, : shorter.shape[1]], atol=1e-9)


def test_istft_of_a_complex_sequence():
    x = rng.normal(size=60) + 1j * rng.normal(size=60)
    options = {"n_fft": 16, "hop_length": 4, "center": False}

    again = istft(stft(x, **options), return_complex=True, **options)

    np.testing.assert_allclose(again, x, atol=1e-12)


def test_of_what_is_no_transform_istft_is_the_closest_sequence():
    n_fft, hop, window = 8, 3, np.hanning(10)[1:-1]
    y = rng.normal(size=(4, 5)) + 1j * rng.normal(size=(4, 5))
    frames = np.fft.irfft(y, n_fft)
    # The frames are window * x[m * hop : m * hop + n_fft]: a system of equations for x.
    system = np.zeros((4, n_fft, n_fft + 3 * hop))
    for m, k in np.ndindex(4, n_fft):
        system[m, k, m * hop + k] = window[k]
    closest = np.linalg.lstsq(system.reshape(4 * n_fft, -1), frames.ravel(), rcond=None)[0]

    x = istft(y, n_fft=n_fft, hop_length=hop, window=window, center=False)

    np.testing.assert_allclose(x, closest, atol=1e-12)


def test_the_shapes_of_flux():
    y = stft(np.ones((3, 16), "float32"), n_fft=16)

    assert y.shape == (3, 5, 9) and y.dtype == "complex64"
    np.testing.assert_allclose(tf.math.real(y)[..., 0], np.full((3, 5), 16.0))
    assert istft(y, n_fft=16).shape == (3, 16)


@pytest.mark.parametrize("power", [1.0, 2.0, 0])
def test_a_spectrogram_is_a_power_of_the_transform(power):
    x, window = rng.normal(size=(2, 3, 64)), np.hanning(17)[:-1]
    padded = np.pad(x, [(0, 0), (0, 0), (5, 5)])
    options = {"n_fft": 16, "hop_length": 4, "window": window}

    s = spectrogram(x, pad=5, power=power, window_normalized=True, **options)

    flat = padded.reshape(6, -1)
    y = np.stack([naive_stft(one, 16, 4, window) for one in flat]) / np.linalg.norm(window)
    expected = np.abs(y) ** power if power else y
    np.testing.assert_allclose(s, expected.reshape(2, 3, *y.shape[1:]), atol=1e-10)


def test_silence_has_a_gradient():
    x = tf.zeros(64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        s = spectrogram(x, n_fft=16, hop_length=4, window=hann_window(16), power=0.5)

    assert np.all(np.isfinite(tape.gradient(s, x)))


def test_decibels():
    s = rng.uniform(size=(2, 20)) ** 8

    found = power_to_db(s, ref=0.5, amin=1e-6, top_db=40)

    expected = 10 * np.log10(np.maximum(s, 1e-6) / 0.5)
    np.testing.assert_allclose(found, np.maximum(expected, expected.max() - 40), rtol=1e-10)
    np.testing.assert_allclose(db_to_power(power_to_db(s, top_db=200)), np.maximum(s, 1e-10))
    np.testing.assert_allclose(db_to_power([3.0], ref=2), [2 * 10**0.3], rtol=1e-6)


def test_mel_filters_are_triangles():
    filters = melscale_filterbanks(
        n_freqs=101, n_mels=6, sample_rate=8000, fmin=100.0, fmax=3000.0
    ).numpy()

    first, last = 2595 * np.log10(1 + np.array([100, 3000]) / 700)
    points = 700 * (10 ** (np.linspace(first, last, 8) / 2595) - 1)
    frequencies = np.linspace(0, 4000, 101)
    expected = [np.interp(frequencies, points[m : m + 3], [0, 1, 0]) for m in range(6)]
    np.testing.assert_allclose(filters, np.transpose(expected), atol=1e-6)
    with pytest.warns(UserWarning, match=r"^a mel filter is zero everywhere: n_mels=40 are too"):
        melscale_filterbanks(n_freqs=10, n_mels=40, sample_rate=8000)


@pytest.mark.parametrize("jit", [False, True])
def test_spectra_compile(jit):
    x = rng.normal(size=(2, 100)).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec((2, 100))], jit_compile=jit)
    def again(x):
        y = stft(x, n_fft=16, window=hann_window(16))
        x = istft(y, n_fft=16, window=hann_window(16), original_length=100)
        s = spectrogram(x, n_fft=16, hop_length=4, window=hann_window(16))
        return x, db_to_power(power_to_db(s, top_db=120))

    found, power = again(x)

    np.testing.assert_allclose(found, x, atol=1e-4)
    expected = np.abs([naive_stft(one, 16, 4, np.hanning(17)[:-1]) for one in x]) ** 2
    np.testing.assert_allclose(power, expected, rtol=1e-3, atol=1e-4)


def test_sequences_may_have_any_length_in_a_compiled_function():
    call = tf.function(lambda x: stft(x, n_fft=16), input_signature=[tf.TensorSpec((None, None))])

    np.testing.assert_allclose(call(np.ones((1, 16), "f4")), stft(np.ones((1, 16)), n_fft=16))


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda: hann_window(0),
            ValueError,
            "a window expects its length, a whole number from 1, got 0.",
        ),
        (
            lambda: hamming_window(1, periodic=False),
            ValueError,
            "a window expects its length, a whole number from 2, got 1.",
        ),
        (
            lambda: stft(np.ones(8), n_fft=16),
            ShapeError,
            "stft expects at least 9 samples along the last axis for n_fft=16, got an array of "
            "shape (8,).",
        ),
        (
            lambda: stft(np.ones(8), n_fft=9, center=False),
            ShapeError,
            "stft expects at least 9 samples along the last axis for n_fft=9, got an array of "
            "shape (8,).",
        ),
        (
            lambda: stft(np.ones(8), n_fft=4, hop_length=0),
            ValueError,
            "stft expects hop_length to be a whole number from 1, got 0.",
        ),
        (
            lambda: stft(np.ones(8), n_fft=4, window=np.ones(5)),
            ShapeError,
            "stft expects a window of at most n_fft=4 numbers, got one of shape (5,).",
        ),
        (
            lambda: istft(np.ones((3, 4), complex), n_fft=8),
            ShapeError,
            "istft expects complex numbers of shape (…, frames, 5), got complex128 of shape "
            "(3, 4).",
        ),
        (
            lambda: istft(np.ones((3, 5), complex), n_fft=8, original_length=9),
            ShapeError,
            "istft expects frames of 9 samples, got 3 frames, of 8 samples.",
        ),
        (
            lambda: spectrogram(np.ones(8), n_fft=4, hop_length=1, window=None, power=-1),
            ValueError,
            "spectrogram expects pad and power from 0, got 0 and -1.",
        ),
        (
            lambda: spectrogram(
                np.ones(8), n_fft=4, hop_length=1, window=None, window_normalized=True
            ),
            ValueError,
            "spectrogram expects a window to normalise by, got None.",
        ),
        (
            lambda: melscale_filterbanks(n_freqs=9, n_mels=2, sample_rate=8, fmin=4.0),
            ValueError,
            "melscale_filterbanks expects n_freqs, n_mels and sample_rate from 1, and fmin below "
            "fmax, got 9, 2, 8, 4.0 and 4.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, kind, words):
    with pytest.raises(kind, match=f"^{re.escape(words)}$"):
        make()
