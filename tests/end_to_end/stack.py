"""A real coordinator and real workers as processes on loopback, in a folder of their own."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("ASSAY_BUILD_DIR", SOURCE / "build" / "release")) / "bin"
BATCHES = sorted((SOURCE / "models" / "batches").glob("batch_*_models.json"))
PATIENCE = 240  # seconds until a condition that must come is given up


def until(condition, what):
    """The first true value of condition(); AssertionError after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while True:
        asked = time.monotonic()
        value = condition()
        now = time.monotonic()
        if value:
            return value
        if now > end:
            raise AssertionError(f"waited {PATIENCE} s in vain for {what}")
        # A condition that starts a program must not take the machine from what it waits for.
        time.sleep(max(0.01, min(0.5, 3 * (now - asked))))


class Stack:
    """with Stack(workers=2) as stack: …; everything is killed at the end, whatever happened."""

    def __init__(self, workers=2, lease_ms=2000):
        self._folder = tempfile.TemporaryDirectory(prefix="assay_e2e_")
        self.folder = pathlib.Path(self._folder.name)
        self.lease_ms = lease_ms
        self.port = 0
        self.coordinator = None
        self.workers = {}
        self._count = workers

    def __enter__(self):
        try:
            self.start_coordinator()
            for i in range(self._count):
                self.start_worker(f"worker-{i + 1}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in [*self.workers.values(), self.coordinator]:
            if process and process.poll() is None:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def start_coordinator(self):
        """Starts it, or starts it again on the same port and data."""
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        self.coordinator = self._spawn(
            "coordinator", "assay-coordinator", "--listen", f"127.0.0.1:{self.port}", "--data-dir",
            self.folder / "data", "--content-dir", self.tree("coordinator"), "--port-file", port_file, "--lease-ms", self.lease_ms)

        def ready():
            if self.coordinator.poll() is not None:
                raise AssertionError("the coordinator ended: " + self.log("coordinator"))
            return port_file.exists() and port_file.read_text().strip()

        self.port = int(until(ready, "the coordinator's port"))

    def start_worker(self, name, *more):
        self.workers[name] = self._spawn(
            name, "assay-worker", "--coordinator", self.address, "--name", name, "--state-dir", self.folder / name,
            "--slots", 1, *more)

    def dead(self):
        """A worker that has ended though nobody told it to."""
        return next((name for name, worker in self.workers.items() if worker.poll() is not None), None)

    def kill_coordinator(self):
        self.coordinator.send_signal(signal.SIGKILL)
        self.coordinator.wait()

    def kill_worker(self, name):
        self.workers[name].send_signal(signal.SIGKILL)
        self.workers.pop(name).wait()

    def client_environment(self):
        return None  # this process's

    def tree(self, _process):
        """The source tree that a process ("coordinator", "worker-1", "client") is of and runs in."""
        return SOURCE

    def binary(self, process, program):
        tree = self.tree(process)
        return (BIN if tree == SOURCE else tree / "build" / "release" / "bin") / program

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def assay(self, command, *more, code=0, text=None):
        """Runs `assay COMMAND --address … MORE`; its standard output. Asserts the exit code."""
        ran = subprocess.run(
            [self.binary("client", "assay"), command, "--address", self.address, *map(str, more)],
            capture_output=True, text=True, timeout=PATIENCE, cwd=self.tree("client"), input=text)
        if code is not None and ran.returncode != code:
            raise AssertionError(
                f"assay {command} gave {ran.returncode}, expected {code}\n{ran.stdout}\n{ran.stderr}")
        return ran.stdout

    def submit(self, files=BATCHES, *more):
        """Batch ids in the order of the files."""
        arguments = [word for file in files for word in ("--batch-file", file)] + list(more)
        answer = json.loads(self.assay("submit", "-o", "json", *arguments))
        return [batch["batch_id"] for batch in answer["batch"]]

    def jobs(self, batch):
        return json.loads(self.assay("show", batch, "-o", "json")).get("job", [])

    def wait(self, batches):
        """All jobs of the batches, once every one is done: whatever came of them."""
        for batch in batches:
            watch = subprocess.Popen([self.binary("client", "assay"), "watch", batch, "--address", self.address],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.tree("client"),
                                     env=self.client_environment())
            try:
                until(lambda: watch.poll() is not None or self.dead(), f"the end of {batch}")
            finally:
                watch.kill()
                watch.wait()
            if self.dead():
                raise AssertionError(f"{self.dead()} has ended: {self.log(self.dead())}")
        jobs = [job for batch in batches for job in self.jobs(batch)]
        unfinished = [job["job_id"] for job in jobs if job["state"] != "DONE"]
        if unfinished:
            raise AssertionError(f"the watch of its batch has ended, and not {unfinished}: {self.log('coordinator')}")
        return jobs

    def _spawn(self, name, program, *arguments):
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen([self.binary(name, program), *map(str, arguments)], stdout=log, stderr=log,
                                    cwd=self.tree(name))
