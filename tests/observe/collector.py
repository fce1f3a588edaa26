"""A collector of OpenTelemetry traces: takes OTLP/HTTP in JSON, keeps every span."""

import http.server
import json
import threading


class Collector:
    """with Collector() as collector: … collector.spans, dictionaries as OTLP has them, with "service" added."""

    def __init__(self):
        self.spans = []
        self.requests = []  # (path, headers)
        self._lock = threading.Lock()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._take(self.path, dict(self.headers), json.loads(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def _take(self, path, headers, request):
        with self._lock:
            self.requests.append((path, headers))
            for resource in request["resourceSpans"]:
                attributes = {a["key"]: a["value"]["stringValue"] for a in resource["resource"]["attributes"]}
                for scope in resource["scopeSpans"]:
                    self.spans += [{**span, "service": attributes["service.name"]} for span in scope["spans"]]

    def all(self):
        with self._lock:
            return list(self.spans)
