"""The shared backend: queue, slots, tokens. `base` holds the nouns that the rest of the program speaks in."""
