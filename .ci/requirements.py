"""Prints requirements that pyproject.toml states, for environments pip cannot describe.

``--without NAME``: the package's dependencies without one of them, for the
environments that have another Keras backend than TensorFlow.
``--oldest``: every dependency at exactly its lower bound.
Further arguments are names of extras to add.
"""

import argparse
import re
import tomllib
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--without", default="")
parser.add_argument("--oldest", action="store_true")
parser.add_argument("extras", nargs="*")
arguments = parser.parse_args()

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
for requirement in project["dependencies"]:
    name = re.split(r"[^\w-]", requirement)[0]
    if name != arguments.without:
        print(requirement.replace(">=", "==") if arguments.oldest else requirement)
for extra in arguments.extras:
    print(*project["optional-dependencies"][extra], sep="\n")
