"""Checkpoints of any size and class: a program for their own configuration, and a golden of their weights.

    python -m assay_exporter checkpoint --request request.json --out DIR

See docs/checkpoints.md, "Programs and goldens of checkpoints".
"""
