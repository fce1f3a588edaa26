"""A cluster as processes on loopback: PostgreSQL, coordinators and workers, in a folder of their own."""

import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("ASSAY_BUILD_DIR", SOURCE / "build" / "release")) / "bin"
PATIENCE = 600  # seconds until a condition that must come is given up


class Failed(Exception):
    pass


def until(condition, what, patience=PATIENCE):
    """The first true value of condition()."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"waited {patience} s in vain for {what}")
        time.sleep(0.05)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Postgres:
    """A server on a port of loopback, or a hot standby of another one. PostgreSQL refuses to be run by root: then it is
    another user's."""

    def __init__(self, folder, of=None):
        versions = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
        if not versions:
            raise Failed("there is no /usr/lib/postgresql/*/bin/initdb: scripts/setup --tests installs it")
        self.bin = versions[-1].parent
        self.folder = folder
        self.port = free_port()
        self._user = {}
        self.running = False
        folder.mkdir()
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(folder, account.pw_uid, account.pw_gid)
        if of:
            self._run("pg_basebackup", "-D", folder / "data", "-h", "127.0.0.1", "-p", of.port, "-U", "assay", "-R",
                      "-X", "stream", "-c", "fast")
            self.start()
            return
        self._run("initdb", "-D", folder / "data", "-U", "assay", "-A", "trust", "-E", "UTF8", "--no-locale",
                  "--no-instructions")
        self.start()
        self.create("assay")

    @property
    def url(self):
        return self.database("assay")

    def database(self, name):
        return f"postgres://assay@127.0.0.1:{self.port}/{name}"

    def create(self, name):
        """A new database; its URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "assay", "-T", "template0", name)
        return self.database(name)

    def sql(self, statement, database="postgres"):
        """What psql prints of it: rows, with | between columns."""
        return self._run("psql", "-h", "127.0.0.1", "-p", self.port, "-U", "assay", "-d", database, "-X", "-A", "-t",
                         "-q", "-v", "ON_ERROR_STOP=1", "-c", statement).strip()

    def signal(self, how):
        """To each of its processes; it is one that goes on after SIGSTOP and SIGCONT as if nothing had been."""
        server = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                if server in (int(stat.parent.name), parent):
                    os.kill(int(stat.parent.name), how)
            except (FileNotFoundError, ProcessLookupError):
                pass  # it has ended

    def promote(self):
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "promote")

    def start(self):
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", "-o", options, "start")
        self.running = True

    def stop(self, mode="immediate"):
        """`immediate` is a crash to its clients: nothing is finished, nothing is written back."""
        self.running = False
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", mode, "stop")

    def _run(self, program, *arguments):
        # Not to a pipe: the server that pg_ctl starts would keep it open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            ran = subprocess.run([str(self.bin / program), *map(str, arguments)], stdout=out, stderr=err, cwd="/",
                                 **self._user)
            out.seek(0)
            err.seek(0)
            if ran.returncode != 0:
                raise Failed(f"{program}: {err.read().strip()}")
            return out.read()


class Cluster:
    """with Cluster(coordinators=3, workers=8) as cluster: …; everything is killed at the end, whatever happened. On a
    PostgreSQL of its own, or on the database that `url` names."""

    def __init__(self, coordinators, workers, url=None):
        self._folder = tempfile.TemporaryDirectory(prefix="assay_cluster_")
        self.folder = pathlib.Path(self._folder.name)
        self.folder.chmod(0o755)
        self._counts = coordinators, workers
        self.coordinators, self.workers, self.watchers = {}, {}, {}
        self.ports = {}
        self.postgres = None
        self.url = url

    def __enter__(self):
        try:
            if not self.url:
                self.postgres = Postgres(self.folder / "postgres")
                self.url = self.postgres.url
            for i in range(self._counts[0]):
                self.start_coordinator(f"coordinator-{i + 1}")
            for name in self.coordinators:
                self.await_port(name)
            for i in range(self._counts[1]):
                self.start_worker(f"worker-{i + 1}", i)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in [*self.watchers.values(), *self.workers.values(), *self.coordinators.values()]:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self.postgres:
            try:
                self.postgres.stop()
            except Failed:
                pass  # it was not running
        self._folder.cleanup()

    def start_coordinator(self, name, *more, **environment):
        """On the port that it had before, where it had one."""
        port_file = self.folder / f"{name}.port"
        port_file.unlink(missing_ok=True)
        self.coordinators[name] = self._spawn(
            name, "assay-coordinator", "--listen", f"127.0.0.1:{self.ports.get(name, 0)}", "--database", self.url,
            "--blobs", "postgres", "--content-dir", SOURCE, "--port-file", port_file, *more, **environment)

    def await_port(self, name):
        file = self.folder / f"{name}.port"

        def ready():
            if self.coordinators[name].poll() is not None:
                raise Failed(f"{name} ended: {self.log(name)}")
            return file.exists() and file.read_text().strip()

        self.ports[name] = int(until(ready, f"{name}'s port"))

    def start_worker(self, name, first, *more, address=None):
        """It knows all coordinators, or the one at this address."""
        self.workers[name] = self._spawn(
            name, "assay-worker", "--coordinator", address or self.addresses(first), "--name", name, "--state-dir",
            self.folder / name, "--slots", 1, "--cpu-only", *more)

    def addresses(self, first=0):
        """Of all coordinators, beginning with another one for each `first`."""
        all_of_them = [f"127.0.0.1:{port}" for port in self.ports.values()]
        first %= len(all_of_them)
        return ",".join(all_of_them[first:] + all_of_them[:first])

    def kill(self, processes, name):
        processes[name].send_signal(signal.SIGKILL)
        processes.pop(name).wait()

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def keep_logs(self, to):
        to.mkdir(parents=True, exist_ok=True)
        for file in self.folder.glob("*.log"):
            shutil.copy(file, to)

    def assay(self, command, *more, first=0, code=0, address=None):
        """Runs `assay COMMAND --address … MORE`; its standard output, or where another exit code is expected what it
        complains of."""
        ran = subprocess.run([str(BIN / "assay"), command, "--address", address or self.addresses(first),
                              *map(str, more)],
                             capture_output=True, text=True, timeout=PATIENCE, cwd=SOURCE)
        if ran.returncode != code:
            raise Failed(f"assay {command} gave {ran.returncode}, expected {code}\n{ran.stdout}\n{ran.stderr}")
        return ran.stderr if code else ran.stdout

    def submit(self, files, *more, first=0):
        arguments = [word for file in files for word in ("--batch-file", file)] + list(more)
        answer = json.loads(self.assay("submit", "-o", "json", *arguments, first=first))
        return [batch["batch_id"] for batch in answer["batch"]]

    def watch(self, batch, first):
        """Follows the batch from now on, over whatever happens; events() tells what it saw."""
        with open(self.folder / f"{batch}.events", "wb") as out, open(self.folder / f"{batch}.watch.log", "wb") as err:
            self.watchers[batch] = subprocess.Popen(
                [str(BIN / "assay"), "watch", batch, "-o", "json", "--address", self.addresses(first)], stdout=out,
                stderr=err, cwd=SOURCE)

    def seen(self):
        """Every job as the watchers have last seen it, by id; asks nobody."""
        jobs = {}
        for batch in self.watchers:
            text = (self.folder / f"{batch}.events").read_text()
            for line in text[: text.rfind("\n") + 1].splitlines():
                job = json.loads(line).get("job")
                if job:
                    jobs[job["job_id"]] = job
        return jobs

    def events(self, batch):
        code = self.watchers[batch].wait(timeout=PATIENCE)
        if code != 0:
            raise Failed(f"the watch of {batch} gave {code}: {self.log(batch + '.watch')}")
        lines = (self.folder / f"{batch}.events").read_text().splitlines()
        return [json.loads(line) for line in lines if line]

    def jobs(self, batches):
        return [job for batch in batches for job in json.loads(self.assay("show", batch, "-o", "json")).get("job", [])]

    def _spawn(self, name, binary, *arguments, **environment):
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen([str(BIN / binary), *map(str, arguments)], stdout=log, stderr=log, cwd=SOURCE,
                                    env={**os.environ, **environment})
