#!/bin/sh
# Runs the tests in several processes, then those that failed once more, alone. Usage: run_tests.sh PYTHON PROCESSES [PYTEST OPTION ...]
# Many tests start servers, browsers and clusters and wait for them. On a machine with few cores such a wait can be too short for a
# reason outside the program. A failure that returns when the test has the machine to itself ends the run with status 1; the first
# failure stays in the output, with its traceback.
set -u
python=$1
processes=$2
shift 2

"$python" -m pytest -n "$processes" --dist loadfile --no-loadscope-reorder --cache-clear "$@"
status=$?
# 1 says that tests failed. Everything else, such as an option that pytest does not know, does not change by a second run.
[ "$status" -eq 1 ] || exit "$status"
echo
echo "Some tests failed. They run once more, alone, up to the first that fails again."
"$python" -m pytest --last-failed --last-failed-no-failures none --exitfirst "$@"
