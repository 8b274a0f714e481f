import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import CheckpointError
from fluxkeras.training.records import read, write

TREES = {
    "plain": {"a": 1, "b": [None, True, 2.5, "λ"], "huge": 2**127 - 1},
    "not finite": [float("inf"), -float("inf")],
    "nested": {"t": (1, [2, (3,)], {}), "of numbers": {1: "one"}, "empty": ((), [], "")},
    "arrays": [np.arange(6).reshape(2, 3).astype(t) for t in ("f2", "f4", "f8", "i1", "u4", "?")],
    "odd arrays": (np.float32(2.5), np.zeros((0, 3)), np.array([1 + 2j]), np.array([b"ab"])),
    "tensors": {"bfloat16": tf.constant([1.5], tf.bfloat16), "text": tf.constant("λ")},
}


def assert_equal(found, expected):
    assert isinstance(found, type(expected)) or not isinstance(expected, dict | list | tuple)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_equal(a, b)
    elif tf.is_tensor(expected) or isinstance(expected, np.ndarray | np.generic):
        expected = tf.convert_to_tensor(expected).numpy()
        np.testing.assert_array_equal(found, expected)
        assert np.asarray(found).dtype == np.asarray(expected).dtype
    else:
        assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("name", TREES)
def test_what_is_written_is_read(name, tmp_path):
    write(tmp_path / "a.ckpt", TREES[name])

    assert_equal(read(tmp_path / "a.ckpt"), TREES[name])
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_folders_are_made(tmp_path):
    write(tmp_path / "a" / "b" / "c.ckpt", [1])

    assert read(tmp_path / "a" / "b" / "c.ckpt") == [1]


def test_what_no_tensor_can_hold_is_refused_before_the_file_changes(tmp_path):
    path = tmp_path / "a.ckpt"
    write(path, [1])

    with pytest.raises(TypeError, match=r"numbers, texts and arrays.* of type set: {1, 2}\."):
        write(path, [{1, 2}])
    assert read(path) == [1]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_file_that_could_not_be_written_is_as_it_was(moment, tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    write(path, [1])
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(os, moment, fail)
        patch.setattr(type(path), "replace", fail)
        write(path, [2])
    assert path.read_bytes() == before

    write(path, [3])  # over what was left beside
    assert read(path) == [3]
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to Linux's /dev/full")
def test_a_disk_that_is_full_is_an_error_of_the_system(tmp_path):
    path = tmp_path / "a.ckpt"
    write(path, [1])
    (tmp_path / "a.ckpt.new").symlink_to("/dev/full")

    with pytest.raises(OSError, match="No space left on device"):
        write(path, [2])
    assert read(path) == [1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.ckpt"
    write(path, {"weights": [np.random.default_rng(0).random((8, 8)), np.arange(5)], "step": 3})
    return path.read_bytes()


def cases(size, count):
    """Places over all of a file, those of its first and last bytes among them."""
    return sorted({0, 1, size - 1, *np.linspace(0, size - 1, count, dtype=int).tolist()})


def test_a_file_that_was_cut_off_is_refused(whole, tmp_path):
    path = tmp_path / "a.ckpt"
    for end in cases(len(whole), 400):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"a\.ckpt is damaged, or no checkpoint"):
            read(path)


def test_a_file_with_a_wrong_byte_is_refused(whole, tmp_path):
    path = tmp_path / "a.ckpt"
    bits = random.Random(0)
    for place in cases(len(whole), 600):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bits.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"a\.ckpt is damaged, or no checkpoint"):
            read(path)


def test_a_file_with_more_at_its_end_is_refused(whole, tmp_path):
    path = tmp_path / "a.ckpt"
    for more in (bytes(100), whole):
        path.write_bytes(whole + more)
        with pytest.raises(CheckpointError, match="damaged"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello" * 100, bytes(1000)])
def test_what_is_no_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="Delete it, or move it away"):
        read(path)


def records_of(path, *records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


@pytest.mark.parametrize(
    "header",
    [
        b"no JSON",
        b"[1, 2]",
        b"{}",
        b'{"fluxkeras": 1, "types": []}',
        b'{"fluxkeras": 1, "types": ["float32"], "tree": {"array": 0}}',
        b'{"fluxkeras": 1, "types": [], "tree": {"array": 0}}',
        b'{"fluxkeras": 1, "types": [], "tree": {"eval": "1"}}',
        b'{"fluxkeras": 1, "types": [], "tree": {"tuple": [], "dict": []}}',
        b"\xff\xfe",
    ],
)
def test_records_that_mean_nothing_are_refused(header, tmp_path):
    records_of(tmp_path / "a.ckpt", header)

    with pytest.raises(CheckpointError, match="damaged"):
        read(tmp_path / "a.ckpt")


def test_a_later_format_is_told(tmp_path):
    later = {"fluxkeras": 2, "tree": "of another kind", "types": None}
    records_of(tmp_path / "a.ckpt", json.dumps(later).encode())

    with pytest.raises(CheckpointError, match="is of format 2, and this fluxkeras reads format 1"):
        read(tmp_path / "a.ckpt")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.ckpt"):
        read(tmp_path / "a.ckpt")
