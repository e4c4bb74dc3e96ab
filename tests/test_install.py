"""What is installed, and what is said where a backend is missing."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import keras
import pytest
from packaging.requirements import Requirement

import keras_layerwise

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BACKENDS = ["tensorflow", "jax", "torch"]


def failure(backend, code):
    """What a fresh interpreter writes to stderr where `code` fails."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    return run.stderr


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("use", ["import keras", "keras_layerwise.LayerwiseOptimizer"])
def test_a_missing_backend_names_the_extra(backend, use):
    hidden = f"import sys; sys.modules[{backend!r}] = None\n"
    stderr = failure(backend, f"{hidden}import keras_layerwise\n{use}")
    assert "ModuleNotFoundError" in stderr
    assert f"pip install 'keras-layerwise[{backend}]'" in stderr


def test_an_unknown_backend_is_told_which_there_are():
    stderr = failure("theano", "import keras_layerwise, keras")
    assert "works with tensorflow, jax, torch" in stderr
    assert f"set KERAS_BACKEND to {keras.backend.backend()}" in stderr


def test_a_second_attempt_says_it_again():
    first = "import keras_layerwise\ntry:\n    import keras\nexcept ValueError:\n    pass\n"
    assert "works with tensorflow" in failure("theano", first + "keras_layerwise.inventory")


def test_no_backend_is_a_dependency_and_each_is_an_extra():
    names = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert names == {"keras", "numpy", "rich", "tensorboard"}
    for backend in BACKENDS:
        extra = PROJECT["optional-dependencies"][backend]
        assert backend in {Requirement(text).name for text in extra}


def test_nothing_is_installed_without_its_dependencies():
    for path in [
        ROOT / "Makefile",
        ROOT / "README.md",
        *ROOT.glob(".ci/*"),
        *ROOT.rglob("docs/*.md"),
    ]:
        assert "--no-deps" not in path.read_text(), path


class TestRelease:
    VERSION = keras_layerwise.__version__
    SECTIONS = re.findall(r"^## \[(.+?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)

    def test_the_changelog_begins_with_the_version(self):
        version, date = self.SECTIONS[0]
        assert version == self.VERSION
        assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", date)
        assert "unreleased" not in {date for _, date in self.SECTIONS[1:]}

    def test_the_citation_has_the_version(self):
        assert f"\nversion: {self.VERSION}\n" in (ROOT / "CITATION.cff").read_text()

    def test_every_minor_release_left_files_that_must_stay_readable(self):
        minors = {version.rpartition(".")[0] for version, _ in self.SECTIONS}
        saved = {path.parent.name for path in ROOT.glob("tests/saved/*/expected.json")}
        assert minors == saved

    def test_every_command_of_the_checklist_exists(self):
        steps = (ROOT / "CONTRIBUTING.md").read_text().partition("## Releasing")[2]
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        commands = set(re.findall(r"`make ([\w-]+)`", steps))
        assert commands
        assert commands <= set(targets)
