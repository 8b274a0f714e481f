"""The picture of the package, held against its source."""

import ast
import copy
from pathlib import Path

import pytest

import fluxkeras

PACKAGE = Path(fluxkeras.__file__).parent

# Each module imports only from rows above its own. Layers and training never import each other.
ROWS = [
    ["checks", "nested", "reading", "triggers"],
    ["array_utilities"],
    ["observations"],
    ["activations", "hyper_parameters", "initialisers", "parameters"],
    [
        "audio",
        "data",
        "gradients",
        "model_state",
        "onehot_arrays",
        "optimisers",
        "pairs",
        "tensor_utilities",
        "views",
    ],
    ["basic_losses", "margin_losses", "layer_losses"],
    ["class_losses", "conversions", "adaptive_rules", "adam_rules", "rule_chain"],
    ["keras_losses", "rule_state", "training.plotting"],
    [
        "layers.printing",
        "training.callbacks",
        "training.history",
        "training.interrupts",
        "training.records",
    ],
    ["layers.base", "layers.arguments", "layers.saving"],
    ["layers.composite", "layers.windows"],
    ["layers.core", "layers.basic", "layers.containers"],
    [
        "layers.models",
        "training.captures",
        "training.iterables",
        "training.lasting",
        "training.memory",
        "training.rounds",
        "training.keeping",
        "training.tuner",
    ],
    ["training.batch"],
    [
        "layers.conv",
        "layers.pooling",
        "layers.padding",
        "layers.resize",
        "layers.patches",
        "layers.sampling",
        "layers.dropout",
        "layers.normalise",
        "layers.weight_norm",
        "layers.cells",
        "training.ahead",
        "training.blocks",
        "training.callback_state",
        "training.distribution",
        "training.independence",
        "training.progress",
    ],
    ["layers.recurrent", "layers.attention", "training.feed", "training.objective"],
    ["training.company", "training.step", "training.parts"],
    ["training.forms"],
    ["training.runner"],
    ["training.cache"],
    ["training.keras_callbacks"],
    ["training.checkpoint"],
    ["training.loop", "training.evaluation"],
    ["training.tools"],
]
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
WITHOUT_TENSORFLOW = [
    "checks", "nested", "observations", "data", "reading", "triggers", "views",
    "training.callbacks", "training.interrupts", "training.plotting",
    "training.progress", "training.rounds", "training.tuner",
]  # fmt: skip


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {
    name_of(path): ast.parse(path.read_text("utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_picture_is_complete():
    assert set(MODULES) == set(ROW)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    for imported in imports(MODULES[name]):
        if imported.startswith("fluxkeras"):
            below = imported.removeprefix("fluxkeras.")
            assert ROW[below] < ROW[name]
            assert {name.partition(".")[0], below.partition(".")[0]} != {"layers", "training"}


@pytest.mark.parametrize("name", MODULES)
def test_only_public_parts_of_keras_and_tensorflow_are_used(name):
    for imported in imports(MODULES[name]):
        assert not imported.startswith(("keras.src", "tensorflow.python"))
        if name in WITHOUT_TENSORFLOW:
            assert not imported.startswith("tensorflow")
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("keras", "src"), ("tf", "python")}


def without_docstrings(tree):
    """The same code, as lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    return ast.unparse(tree).splitlines()


@pytest.mark.parametrize("name", MODULES)
def test_errors_are_sentences(name):
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            assert len(node.exc.args) <= 1, f"line {node.lineno}: a comma in a raise"
        assert not isinstance(node, ast.Assert)


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_one_idea_and_functions_are_seen_whole(name):
    tree = copy.deepcopy(MODULES[name])

    assert ast.get_docstring(tree)
    assert len(without_docstrings(tree)) <= 300
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert len(without_docstrings(node)) <= 40, f"{node.name} is long"
