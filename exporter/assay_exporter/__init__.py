"""Turns catalogue entries into programs: transformers in, `models/programs/<name>.assay` out."""

import os

# An exporter reads what lies on the disk; the library asks about it when it is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
