"""Exploration: one prompt and one image, generated under every combination of some sampling values, then analysed."""
