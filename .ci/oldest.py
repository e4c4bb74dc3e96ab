"""Prints the lower bounds of the dependencies and of one extra as constraints for pip.

python .ci/oldest.py tensorflow > constraints.txt
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
for requirement in project["dependencies"] + project["optional-dependencies"][sys.argv[1]]:
    if ">=" in requirement:
        print(requirement.replace(">=", "=="))
