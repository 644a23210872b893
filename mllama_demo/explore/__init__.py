"""One image and prompt under many sampling values: what to run, what came of it, and what can be read off it."""
