"""Backends generate answers. `base` has the types that the rest of the program uses."""
