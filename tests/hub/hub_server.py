"""Speaks the hub's interface over loopback HTTP, and misbehaves on request. Standard library alone.

    hub_server.py --repos FOLDER [--tls CERT KEY]

FOLDER/owner/name/ holds the files of a repository, at one commit; its branch is "main". Files whose name ends in
.safetensors, .gguf or .bin are of Git LFS: their ETag is the SHA-256 and their content comes, by a redirect, from a
second server on a port of its own, which records whether it saw an Authorization header. Prints "port P storage S" once
it listens.

Control, over HTTP at the first port:
    GET /_control?JSON   (percent-encoded) {"path": substring, "do": what, "times": n, ...}   the next n requests whose path contains it
        do: "bare": the list of files has names alone; "headers": with "headers" instead of its own
            "status" with "status", optionally "headers"
            "cut" after "bytes" of the body (of what is asked for), "stall" after "bytes" until released or closed
            "length": Content-Length is wrong by "by"; "flip": one byte of the body is wrong; "no_range": Range ignored
            "redirect" to "location"; "gate": 403 unless Authorization is "Bearer <token>"
        "where": "hub" (default) or "storage"
    GET /_release    lets stalled bodies go on
    GET /_reset      forgets faults and requests, and lets stalled bodies go on
    GET /_log        every request so far: [{"where", "method", "path", "auth", "range", "status"}]
"""

import argparse
import hashlib
import http.server
import json
import pathlib
import ssl
import threading
import urllib.parse

LFS = (".safetensors", ".gguf", ".bin")


class State:
    def __init__(self, repos):
        self.repos = pathlib.Path(repos)
        self.lock = threading.Lock()
        self.log = []
        self.faults = []
        self.released = threading.Event()
        self.storage_port = 0
        self.hashes = {}

    def fault(self, where, path):
        with self.lock:
            for fault in self.faults:
                if fault["times"] > 0 and fault["where"] == where and fault["path"] in path:
                    fault["times"] -= 1
                    return fault
        return None

    def etag(self, path):
        """SHA-256 for files of Git LFS, else git's SHA-1; and the latter of the pointer or the file."""
        key = (str(path), path.stat().st_mtime_ns, path.stat().st_size)
        if key not in self.hashes:
            content = path.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.hashes[key] = (hashlib.sha256(content).hexdigest() if path.name.endswith(LFS) else git, git)
        return self.hashes[key]

    def files(self, repo):
        return sorted(p for p in (self.repos / repo).rglob("*") if p.is_file())

    def commit(self, repo):
        """Changes when a file does."""
        lines = [f"{p.relative_to(self.repos / repo)} {self.etag(p)[1]}" for p in self.files(repo)]
        return hashlib.sha1("\n".join(lines).encode()).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    where = "hub"
    state = None

    def log_message(self, *args):
        pass

    def note(self, status):
        with self.state.lock:
            self.state.log.append(
                {
                    "where": self.where,
                    "method": self.command,
                    "path": self.path,
                    "auth": self.headers.get("Authorization", ""),
                    "range": self.headers.get("Range", ""),
                    "status": status,
                }
            )

    def answer(self, status, headers=(), body=b""):
        self.note(status)
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def content(self, path, headers, fault):
        body = path.read_bytes()
        status, begin = 200, 0
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and not (fault and fault["do"] == "no_range"):
            begin = int(asked[6:].split("-")[0])
            if begin >= len(body):
                self.answer(416, {"Content-Range": f"bytes */{len(body)}"})
                return
            status = 206
            headers = {**headers, "Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"}
        whole = bytearray(body)
        if fault and fault["do"] == "flip" and whole:
            whole[len(whole) // 2] ^= 1
        body = bytes(whole[begin:])
        length = len(body) + (fault["by"] if fault and fault["do"] == "length" else 0)
        self.note(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault["do"] in ("cut", "stall"):
            self.wfile.write(body[: fault["bytes"]])
            self.wfile.flush()
            self.close_connection = True
            if fault["do"] == "stall":
                self.state.released.wait(120)
                self.wfile.write(body[fault["bytes"] :])
            return
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_fault(self, fault):
        """True where the fault is the whole answer."""
        if not fault:
            return False
        if fault["do"] == "status":
            self.answer(fault["status"], fault.get("headers", {}), b"no")
            return True
        if fault["do"] == "redirect":
            self.answer(302, {"Location": fault["location"]})
            return True
        if fault["do"] == "gate" and self.headers.get("Authorization") != "Bearer " + fault["token"]:
            self.answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"})
            return True
        return False

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        try:
            self.get()
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    def control(self, path):
        body = b""
        with self.state.lock:
            if path == "/_log":
                body = json.dumps(self.state.log).encode()
            elif path == "/_control":
                fault = json.loads(urllib.parse.unquote(urllib.parse.urlparse(self.path).query))
                self.state.faults.append({"where": "hub", "times": 1, "path": "", "bytes": 0, "by": 0} | fault)
            elif path == "/_release":
                self.state.released.set()
            elif path == "/_reset":
                self.state.released.set()
                self.state.released = threading.Event()
                self.state.faults, self.state.log = [], []
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def get(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        if path.startswith("/_"):
            self.control(path)
            return
        fault = self.state.fault(self.where, path)
        if self.do_fault(fault):
            return
        if self.where == "storage":
            file = self.state.repos / path.lstrip("/")
            self.content(file, {"ETag": f'"{self.state.etag(file)[0]}"'}, fault)
            return
        parts = path.strip("/").split("/")
        # As the oldest repositories are found: by a name without owner, which leads to the one with.
        if path.startswith("/api/models/") and len(parts) >= 4 and parts[3] == "revision":
            self.answer(307, {"Location": "/api/models/acme/" + self.path.split("/", 3)[3]})
            return
        if len(parts) >= 4 and parts[1] == "resolve":
            self.answer(307, {"Location": "/acme" + self.path})
            return
        if path.startswith("/api/models/") and len(parts) >= 4:
            repo = "/".join(parts[2:4])
            revision = "/".join(parts[5:]) if len(parts) > 5 else "main"
        elif len(parts) >= 5 and parts[2] == "resolve":
            repo, revision = "/".join(parts[:2]), parts[3]
        else:
            self.answer(404, {}, b"no such page")
            return
        folder = self.state.repos / repo
        if not folder.is_dir():
            self.answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return
        commit = self.state.commit(repo)
        if revision not in ("main", commit):
            self.answer(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
            return
        if parts[0] == "api":
            siblings = []
            for file in self.state.files(repo):
                etag, git = self.state.etag(file)
                size = file.stat().st_size
                row = {"rfilename": str(file.relative_to(folder)), "size": size, "blobId": git}
                if fault and fault["do"] == "bare":
                    row = {"rfilename": row["rfilename"]}
                elif len(etag) == 64:
                    row["lfs"] = {"sha256": etag, "size": size, "pointerSize": 130}
                siblings.append(row)
            body = json.dumps({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}).encode()
            self.answer(200, {"Content-Type": "application/json"}, body)
            return
        file = folder / "/".join(parts[4:])
        if not file.is_file():
            self.answer(
                404,
                {"X-Repo-Commit": commit, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"},
            )
            return
        etag = self.state.etag(file)[0]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if len(etag) == 64:
            location = f"http://127.0.0.1:{self.state.storage_port}/{repo}/{file.relative_to(folder)}"
            headers |= {"Location": location, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(file.stat().st_size)}
        if fault and fault["do"] == "headers":
            headers |= fault["headers"]
        if len(etag) == 64:
            self.answer(302, headers)
            return
        self.content(file, headers, fault)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repos", required=True)
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    arguments = parser.parse_args()
    Handler.state = State(arguments.repos)
    hub = Server(("127.0.0.1", 0), Handler)
    storage = Server(("127.0.0.1", 0), type("Storage", (Handler,), {"where": "storage"}))
    Handler.state.storage_port = storage.server_address[1]
    if arguments.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*arguments.tls)
        hub.socket = context.wrap_socket(hub.socket, server_side=True)
    threading.Thread(target=storage.serve_forever, daemon=True).start()
    print(f"port {hub.server_address[1]} storage {storage.server_address[1]}", flush=True)
    hub.serve_forever()


if __name__ == "__main__":
    main()
