"""assay-taint and assay-accept-all, with an API server and an `assay` that this file plays."""

import http.server
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import unittest

import chart

SCRIPTS = chart.SOURCE / "deploy" / "container"
WORKERS = {"worker": [
    {"name": "a", "connected": True, "label": ["pool=h100", "node=node-1"], "acceptance": {"state": "REJECTED"}},
    {"name": "b", "connected": True, "label": ["pool=h100", "node=node-2"], "acceptance": {"state": "ACCEPTED"}},
    {"name": "c", "connected": False, "label": ["node=node-3"], "acceptance": {"state": "REJECTED"}},
    {"name": "d", "connected": True, "label": []},
]}


class Api(http.server.BaseHTTPRequestHandler):
    """Nodes with versions, as Kubernetes keeps them: a patch of another version than the present one is a conflict."""

    def answer(self, code, body):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def node(self):
        if self.headers["Authorization"] != "Bearer canary":
            return self.answer(401, {})
        name = self.path.removeprefix("/api/v1/nodes/")
        if name not in self.server.nodes:
            return self.answer(404, {})
        return self.server.nodes[name]

    def do_GET(self):
        if node := self.node():
            self.answer(200, node)

    def do_PATCH(self):
        if not (node := self.node()):
            return
        patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if patch["metadata"]["resourceVersion"] != node["metadata"]["resourceVersion"] or self.server.conflict:
            return self.answer(409, {})
        node["spec"].update(patch["spec"])  # a merge patch replaces a list whole
        self.server.patches += 1
        self.answer(200, node)

    def log_message(self, *_):
        pass


class Taint(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "token").write_text("canary\n")
        (self.folder / "ca.crt").write_text("")
        self.api = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self.api.conflict, self.api.patches = False, 0
        self.api.nodes = {name: {"metadata": {"resourceVersion": "7"}, "spec": {}} for name in ("node-1", "node-2", "node-3")}
        self.api.nodes["node-1"]["spec"]["taints"] = [{"key": "other", "effect": "NoExecute"}]
        threading.Thread(target=self.api.serve_forever).start()
        self.addCleanup(self.api.server_close)
        self.addCleanup(self.api.shutdown)

    def run_script(self, script, assay, *arguments):
        program = self.folder / "assay"
        program.write_text("#!/bin/sh\n" + assay)
        program.chmod(0o755)
        (self.folder / "workers").write_text(json.dumps(WORKERS))
        return subprocess.run([SCRIPTS / script, *arguments], capture_output=True, text=True, env=dict(
            os.environ, PATH=f"{self.folder}:{os.environ['PATH']}", SERVICE_ACCOUNT=str(self.folder),
            KUBERNETES_API=f"http://127.0.0.1:{self.api.server_port}", FOLDER=str(self.folder)))

    def taint(self):
        return self.run_script("assay-taint", 'cat "$FOLDER/workers"')

    def taints(self, name):
        return [taint["key"] for taint in self.api.nodes[name]["spec"].get("taints", [])]

    def test_the_nodes_of_rejected_workers_are_tainted_once(self):
        for patches in (2, 2):
            ran = self.taint()
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertEqual(self.api.patches, patches)
        self.assertEqual(self.taints("node-1"), ["other", "assay.dev/rejected"])
        self.assertEqual(self.taints("node-2"), [])
        self.assertEqual(self.taints("node-3"), ["assay.dev/rejected"])

    def test_a_change_meanwhile_is_kept_and_told(self):
        self.api.conflict = True
        ran = self.taint()
        self.assertEqual(ran.returncode, 1)
        self.assertIn("node-1 could not be tainted", ran.stderr)
        self.assertEqual(self.taints("node-1"), ["other"])

    def test_without_a_coordinator_it_fails(self):
        ran = self.run_script("assay-taint", "echo gone >&2; exit 5")
        self.assertEqual((ran.returncode, self.api.patches), (5, 0))

    def test_accept_all_asks_every_connected_worker_and_fails_where_one_does(self):
        assay = 'case $1 in workers) cat "$FOLDER/workers" ;; accept) echo "$@" >> "$FOLDER/asked"; [ "$2" != b ] || exit 3 ;; esac'
        ran = self.run_script("assay-accept-all", assay, "--address=x")
        self.assertEqual(ran.returncode, 3, ran.stderr)
        asked = (self.folder / "asked").read_text().splitlines()
        self.assertEqual([line.split()[1] for line in asked], ["a", "b", "d"])
        self.assertTrue(all("--address=x" in line for line in asked))

    def test_accept_all_fails_where_no_worker_is_asked(self):
        self.assertEqual(self.run_script("assay-accept-all", "exit 5").returncode, 5)
        ran = self.run_script("assay-accept-all", "echo '{}'")
        self.assertEqual(ran.returncode, 4)
        self.assertIn("nothing was accepted", ran.stderr)


if __name__ == "__main__":
    unittest.main()
