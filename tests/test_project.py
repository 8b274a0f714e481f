"""The files around the package agree with each other."""

import configparser
import re
import sys
from pathlib import Path

import fluxkeras

ROOT = Path(__file__).parents[1]


def commands():
    """The shell commands of the README, in order."""
    readme = (ROOT / "README.md").read_text("utf-8")
    return [block.strip() for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)]


def test_the_readme_has_two_commands_first_and_ci_runs_the_second():
    ci = (ROOT / ".ci" / "run").read_text("utf-8")

    install_and_train, test = commands()[:2]

    assert "python examples/mlp.py" in install_and_train
    assert test in ci.splitlines()


def test_the_floors_of_the_dependencies_are_those_that_are_tested():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    tox = (ROOT / "tox.ini").read_text("utf-8")

    requirements = setup["options"]["install_requires"].split()
    assert requirements == ["tensorflow>=2.16", "keras>=3.5", "numpy"]
    assert "oldest: tensorflow==2.16.*" in tox and "oldest: keras==3.5.*" in tox


def test_the_changelog_tells_of_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")

    assert "## Unreleased" in changelog or f"## {fluxkeras.__version__}" in changelog


def test_the_reference_has_every_public_name_once():
    pages = [path.read_text("utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")]
    shown = re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE)

    names = [name for module in shown for name in sys.modules[module].__all__]

    assert sorted(names) == sorted(fluxkeras.__all__)


def test_the_site_leads_to_every_page_of_the_documentation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")

    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}

    assert set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)) == pages


def test_the_site_is_built_with_what_the_extra_installs():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")

    extra = setup["options.extras_require"]["docs"].split()
    assert tox["testenv:docs"]["deps"].split() == extra
