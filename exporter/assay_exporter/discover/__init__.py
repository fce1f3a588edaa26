"""python -m assay_exporter discover: every architecture of the library, with no word about any of them.

What it goes through: library.py names the architectures and their main class, shrinking.py makes a tiny
configuration, candidates.py thinks of inputs, attempt.py builds, runs, exports and proves one of them,
command.py does all of them in processes of their own, and report.py writes docs/discovered.md.
"""
