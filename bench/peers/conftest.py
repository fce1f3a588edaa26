"""Prints how long the tests took without imports and collection: "tests alone: S s, processor P s"."""

import time


def pytest_collection_finish(session):
    session.config.collected_at = time.perf_counter(), time.process_time()


def pytest_terminal_summary(terminalreporter, config):
    wall, processor = config.collected_at
    terminalreporter.write_line(
        f"tests alone: {time.perf_counter() - wall:.3f} s, processor {time.process_time() - processor:.3f} s"
    )
