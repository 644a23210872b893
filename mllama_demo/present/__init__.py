"""Scripted demos: a YAML file with steps, a rehearsal that records them, and a page that plays them."""
