"""Prints how long the tests took without imports and collection: "tests alone: S s"."""

import time


def pytest_collection_finish(session):
    session.config.collected_at = time.perf_counter()


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.write_line(f"tests alone: {time.perf_counter() - config.collected_at:.3f} s")
