import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from typing import NoReturn

import pytest

import fluxkeras

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(fluxkeras.__path__, "fluxkeras.")
]
# What neither Flux nor Keras has, nor a package beside them.
OWN = {"CheckpointError", "History", "State", "flush"}
# What users get from fluxkeras, and do not call.
NOT_CALLED = {"CheckpointError", "NonFiniteError", "ShapeError", "State"}
NAMES = [(module, name) for module in MODULES for name in getattr(module, "__all__", [])]


def test_every_public_name_is_written_once_and_exported():
    names = [name for _, name in NAMES]

    assert len(names) == len(set(names))
    for module, name in NAMES:
        assert getattr(fluxkeras, name) is getattr(module, name)


def test_nothing_else_is_exported():
    namespace = {}
    exec("from fluxkeras import *", namespace)

    assert namespace.keys() - {"__builtins__"} == {name for _, name in NAMES}


def test_importing_leaves_keras_as_it_is():
    program = (
        "import fluxkeras, keras; keras.config.set_floatx('float64'); "
        "assert keras.layers.Dense(1).compute_dtype == 'float64'; "
        "assert keras.layers.Dense(1).name == 'dense_1'"
    )

    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_no_module_bears_the_name_of_a_public_function():
    public = {name for _, name in NAMES}

    # `import fluxkeras.x` would put the module in the place of the function.
    assert public.isdisjoint(module.__name__.removeprefix("fluxkeras.") for module in MODULES)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda v: getattr(v, "__name__", v))
def test_every_public_name_is_documented(module, name):
    doc = inspect.getdoc(getattr(module, name))

    assert doc and len(doc.splitlines()[0]) <= 100
    assert ">>>" in doc
    assert ("Source: " in doc) is (name not in OWN)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda v: getattr(v, "__name__", v))
def test_what_is_called_says_what_it_takes_and_returns(module, name):
    value = getattr(module, name)
    if name in NOT_CALLED:
        return
    doc, signature = inspect.getdoc(value), inspect.signature(value)

    assert ("Args:\n" in doc) is bool(signature.parameters)
    if not inspect.isclass(value) and signature.return_annotation not in (None, NoReturn):
        assert "Returns:\n" in doc


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda v: getattr(v, "__name__", v))
def test_the_parts_of_a_docstring_come_in_one_order(module, name):
    doc = inspect.getdoc(getattr(module, name))
    headings = ["Args:\n", "Attributes:\n", "Returns:\n", "Raises:\n", "Example:\n", "\nSource: "]
    places = [doc.index(heading) for heading in headings if heading in doc]

    assert places == sorted(places)


def test_the_names_of_flux_06_and_016_are_there():
    for old, new in ("SGD", "Descent"), ("ADAM", "Adam"), ("ADAMW", "AdamW"), ("σ", "sigmoid"):
        assert getattr(fluxkeras, old) is getattr(fluxkeras, new)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_keras_on_another_backend_is_refused(backend):
    environment = os.environ | {"KERAS_BACKEND": backend}

    result = subprocess.run(
        [sys.executable, "-c", "import fluxkeras"], env=environment, capture_output=True, text=True
    )

    assert result.returncode == 1
    assert "ImportError: fluxkeras trains through TensorFlow, but Keras is set to" in result.stderr
    assert "KERAS_BACKEND=tensorflow" in result.stderr
