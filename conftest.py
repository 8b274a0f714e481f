"""Examples in the README, the documentation and docstrings run as tests."""

import tempfile
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

import fluxkeras


def with_public_names(namespace: dict[str, Any]) -> None:
    """What an example may use without importing it."""
    namespace.update({name: getattr(fluxkeras, name) for name in dir(fluxkeras) if name[0] != "_"})
    folder = tempfile.TemporaryDirectory()
    namespace.update(keras=keras, np=np, tf=tf, folder=Path(folder.name), _folder=folder)


def without_folder(namespace: dict[str, Any]) -> None:
    namespace["_folder"].cleanup()


docstrings = Sybil(
    parsers=[DocTestParser(optionflags=ELLIPSIS | NORMALIZE_WHITESPACE)],
    patterns=["fluxkeras/*.py", "fluxkeras/**/*.py"],
    setup=with_public_names,
    teardown=without_folder,
)
pages = Sybil(parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"])

pytest_collect_file = (docstrings + pages).pytest()


@pytest.fixture(autouse=True)
def seed() -> None:
    keras.utils.set_random_seed(0)
