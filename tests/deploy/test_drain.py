"""What happens to a worker when its pod goes: the preStop hook, with real processes and the signals that Kubernetes sends."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import unittest

import chart

sys.path.insert(0, str(chart.SOURCE / "tests" / "end_to_end"))
import stack  # noqa: E402

DRAIN = chart.SOURCE / "deploy" / "container" / "assay-drain"


def evict(worker, grace_is_over=lambda: False):
    """What a kubelet does with the worker's container: the preStop hook; when that is over, or the grace period, SIGTERM.
    The worker's exit code; SIGKILL, and so -9, where it takes far more than the 2 s that a kubelet gives it then."""
    hook = subprocess.Popen([DRAIN, str(worker.pid)])
    try:
        stack.until(lambda: hook.poll() is not None or worker.poll() is not None or grace_is_over(), "the preStop hook")
        if worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
        try:
            return worker.wait(60)
        except subprocess.TimeoutExpired:
            worker.kill()
            return worker.wait()
    finally:
        hook.kill()  # its container is gone
        hook.wait()


def below(pid):
    """The processes that a process has started, and those that they have."""
    parents = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


class Held:
    """From now until release(), nothing that a worker starts or has started runs: what it takes up does not end.
    A job takes milliseconds, less than asking whether one runs: without this nobody would ever see one."""

    def __init__(self, worker):
        self._worker = worker
        self._released = threading.Event()
        self._hold()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def release(self):
        self._released.set()
        self._thread.join()
        self._signal(signal.SIGCONT)

    def _go_on(self):
        while not self._released.wait(0.02):
            self._hold()

    def _hold(self):
        self._signal(signal.SIGSTOP)

    def _signal(self, number):
        for pid in below(self._worker.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


class Drain(unittest.TestCase):
    def running(self, fleet, batches, name):
        return [job for batch in batches for job in fleet.jobs(batch)
                if job["state"] == "RUNNING" and job.get("worker") == name]

    def check(self, jobs):
        self.assertEqual(len(jobs), 62)
        self.assertEqual({job["result"]["outcome"] for job in jobs}, {"PASSED"})

    def test_an_evicted_worker_finishes_what_it_runs_and_nothing_is_run_twice(self):
        with stack.Stack(workers=2) as fleet:
            worker = fleet.workers.pop("worker-1")
            self.addCleanup(worker.kill)
            stack.until(lambda: "connected to" in fleet.log("worker-1"), "worker-1")
            held = Held(worker)
            self.addCleanup(held.release)
            batches = fleet.submit()
            running = stack.until(lambda: self.running(fleet, batches, "worker-1"), "an attempt of worker-1")

            def go_on_once_draining():
                if "draining" in fleet.log("worker-1"):
                    held.release()
                return False  # the grace period is long

            self.assertEqual(evict(worker, grace_is_over=go_on_once_draining), 0)
            jobs = fleet.wait(batches)
            self.check(jobs)
            self.assertEqual({job["attempt"] for job in jobs}, {"1"})
            self.assertEqual({job["worker"] for job in jobs if job["job_id"] in {one["job_id"] for one in running}},
                             {"worker-1"})
            self.assertIn("draining", fleet.log("worker-1"))

    def test_what_does_not_end_within_the_grace_period_runs_elsewhere(self):
        with stack.Stack(workers=1) as fleet:
            worker = fleet.workers.pop("worker-1")
            self.addCleanup(worker.kill)
            stack.until(lambda: "connected to" in fleet.log("worker-1"), "worker-1")
            held = Held(worker)
            self.addCleanup(held.release)
            batches = fleet.submit()
            jobs = stack.until(lambda: self.running(fleet, batches, "worker-1"), "an attempt of worker-1")
            fleet.start_worker("worker-2")
            # Both signals' effects are in its log; without the second one it would wait for ever.
            code = evict(worker, grace_is_over=lambda: "draining" in fleet.log("worker-1"))
            self.assertEqual(code, 8)
            self.assertIn("stopping now", fleet.log("worker-1"))
            ended = fleet.wait(batches)
            self.check(ended)
            moved = {job["job_id"] for job in ended if job["attempt"] != "1"}
            self.assertTrue(moved & {job["job_id"] for job in jobs})
            self.assertEqual({job["worker"] for job in ended if job["job_id"] in moved}, {"worker-2"})


if __name__ == "__main__":
    unittest.main()
