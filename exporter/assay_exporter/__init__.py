"""Turns catalogue entries into programs: transformers in, `models/programs/<name>.assay` out."""
