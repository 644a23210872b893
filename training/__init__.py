"""How the embedded checkpoint is made, from registry packages alone: `make train`, or `python -m training --help`."""
