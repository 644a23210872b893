"""Where the demo puts its aspect ratio ids."""

convert_aspect_ratios_to_ids = None
