"""What is installed, under which licences, and what is said where a backend is missing."""

import hashlib
import importlib.metadata
import importlib.util
import json
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
from tests.shared.scripts import UNLOADED

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
    assert "Keras's backend is 'theano'" in stderr
    assert "works with tensorflow, jax, torch" in stderr
    assert f"set KERAS_BACKEND to {keras.backend.backend()}" in stderr


def test_the_backend_of_keras_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "keras.json").write_text('{"backend": "theano"}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert "Keras's backend is 'theano'" in failure("", "import keras_layerwise, keras")


def test_a_backend_that_keras_has_and_this_package_has_not_is_told_too(scripts):
    """Keras's backend of NumPy alone asks for JAX, which need not be installed."""
    code = "import keras, warnings; keras.backend.backend = lambda: 'numpy'\n"
    code += "warnings.simplefilter('error'); import keras_layerwise"
    (done,) = scripts.run((f"{UNLOADED}\n{code}",))
    assert done.returncode == 1
    assert "UserWarning: Keras's backend is 'numpy'; keras-layerwise works with" in done.stderr


def test_where_the_backend_is_there_another_error_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "keras.json").write_text('{"floatx": "float7"}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    stderr = failure(keras.backend.backend(), "import keras_layerwise, keras")
    assert "floatx" in stderr
    assert "pip install" not in stderr


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


def test_an_extra_raises_the_bounds_of_the_package():
    path = ROOT / ".ci" / "oldest.py"
    spec = importlib.util.spec_from_file_location("oldest", path)
    oldest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oldest)
    project = {
        "dependencies": ["keras>=3.10.0", "rich>=13.0.0"],
        "optional-dependencies": {"jax": ["jax>=0.10.0", "keras>=3.9.0", "rich>=13.10", "six<2"]},
    }
    assert oldest.bounds(project, "jax") == {"keras": "3.10.0", "rich": "13.10", "jax": "0.10.0"}


class TestLicences:
    """Everything that comes along may be passed on with a program under Apache-2.0."""

    # Those that ask for no more than to be named, and the Mozilla licence of certifi's list.
    ADMITTED = re.compile(
        r"(3-Clause |0)?BSD\b.*|Apache\b.*|MIT\b.*|PSF-2.0|Python Software.*|ISC\b.*|Zlib|CC0-1.0"
        r"|BSL-1.0|MPL-2.0|Mozilla Public License 2.0.*|The Unlicense.*|Unlicense"
    )

    @staticmethod
    def needed():
        """The distributions that the package and its backend need, also through others."""
        todo, found = ["keras-layerwise", keras.backend.backend()], {}
        while todo:
            name = todo.pop()
            try:
                found[name] = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue  # for another system, or another Python
            for text in found[name].requires or ():
                requirement = Requirement(text)
                wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
                if wanted and requirement.name not in found:
                    todo.append(requirement.name)
        return found

    @staticmethod
    def licences(distribution):
        about = distribution.metadata
        if about["License-Expression"]:
            return re.split(r" AND | OR ", re.sub(r"[()]", "", about["License-Expression"]))
        named = [one for one in about.get_all("Classifier") or () if one.startswith("License ::")]
        if named:
            return [one.split(" :: ")[-1] for one in named]
        if about["License"]:
            return [about["License"].splitlines()[0]]
        texts = [path.read_text() for path in distribution.files or () if path.name == "LICENSE"]
        return re.findall("Apache License|MIT License|BSD License", " ".join(texts))[:1]

    def test_those_of_everything_that_is_needed_are_compatible(self):
        found = {name: self.licences(one) for name, one in self.needed().items()}
        assert len(found) > 15
        others = {
            name: licences
            for name, licences in found.items()
            if not licences or not all(self.ADMITTED.fullmatch(one) for one in licences)
        }
        assert others == {}

    def test_the_library_of_the_tab_is_the_one_that_was_released(self):
        static = ROOT / "keras_layerwise" / "tab" / "static"
        (folder,) = (static / "vendor").iterdir()
        about = json.loads((folder / "package.json").read_text())
        assert folder.name == f"{about['name']}-{about['version']}"
        assert about["license"] == "MIT"
        assert (folder / "LICENSE").read_text().startswith("MIT License")
        digest = hashlib.sha256((folder / about["main"]).read_bytes()).hexdigest()
        assert f"`{digest}`" in (static / "README.md").read_text()


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
