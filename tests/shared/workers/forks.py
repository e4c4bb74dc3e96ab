"""Runs scripts in forks of this process, which has imported Keras and done nothing with it.

Reads lines of JSON: ``[[code, argument, ...], ...]``, scripts that run at once. Answers each
line with the scripts' processes, and with ``[[status, stdout, stderr], ...]`` when all of them
have ended.
"""

import gc
import json
import os
import sys
import tempfile

import keras  # noqa: F401 - so that a script need not wait for it

from tests.shared.scripts import load_package

load_package()
gc.freeze()  # or each fork's collector would look through all of it, and copy it so


def serve():
    """Returns in a fork, with the code that it is to run, or at the end of the input."""
    for line in sys.stdin:
        started = []
        for code, *arguments in json.loads(line):
            files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
            process = os.fork()
            if not process:
                for number, file in enumerate(files, 1):
                    os.dup2(file.fileno(), number)
                sys.argv = ["-c", *arguments]
                return code
            started.append((process, files))
        print(json.dumps([process for process, _ in started]), flush=True)
        answers = []
        for process, files in started:
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            for file in files:
                file.seek(0)
            answers.append([status, *(file.read() for file in files)])
        print(json.dumps(answers), flush=True)
    return ""


# Not in a function, so that a script ends as one that Python was started with.
exec(compile(serve(), "<script>", "exec"), {"__name__": "__main__"})
