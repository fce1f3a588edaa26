"""python -m assay_exporter discover: every architecture of the library, with no word about any of them.

What it goes through: library.py names the architectures and their main class, shrinking.py makes a tiny
configuration and mending.py what an error says of it, building.py the model; media.py, candidates.py and places.py
think of inputs; attempt.py runs, exports and proves one of them with what proof.py asks, command.py does all of them
in processes of their own, and report.py writes docs/discovered.md.
"""
