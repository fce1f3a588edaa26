"""Celery over Redis: `celery_noop.py JOBS` with REDIS_PORT set prints one JSON object. Two prefork workers; a job is done
when the client has read its result from the backend, a thousand keys a call."""

import json
import os
import subprocess
import sys
import time

from celery import Celery

port = os.environ["REDIS_PORT"]
app = Celery("celery_noop", broker=f"redis://127.0.0.1:{port}/0", backend=f"redis://127.0.0.1:{port}/1")
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"], worker_prefetch_multiplier=64,
                worker_send_task_events=False, broker_connection_retry_on_startup=True, result_expires=3600)


@app.task(name="noop")
def noop(payload):
    return {"ok": 1, "n": len(payload)}


def main(jobs: int) -> None:
    import redis

    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "celery_noop", "worker", "--concurrency=2", "--pool=prefork",
         "--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"],
        cwd=os.path.dirname(os.path.abspath(__file__)), env=dict(os.environ, C_FORCE_ROOT="1"),
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        payload = "x" * 200
        for _ in range(20):
            noop.delay(payload).get(timeout=60)
        times = []
        for _ in range(300):
            start = time.perf_counter()
            noop.delay(payload).get(timeout=60)
            times.append((time.perf_counter() - start) * 1e3)
        times.sort()
        backend = redis.Redis(port=int(port), db=1)
        begin = time.perf_counter()
        keys = [f"celery-task-meta-{noop.apply_async((payload,)).id}" for _ in range(jobs)]
        done = 0
        while done < jobs:
            values = backend.mget(keys[done : done + 1000])
            ready = next((i for i, value in enumerate(values) if value is None), len(values))
            done += ready
            if ready == 0:
                time.sleep(0.005)
        seconds = time.perf_counter() - begin
        print(json.dumps({"jobs": jobs, "seconds": seconds, "jobs_per_second": jobs / seconds,
                          "lone_ms": {"p50": times[150], "p99": times[297]}}))
    finally:
        worker.terminate()
        worker.wait(30)


if __name__ == "__main__":
    main(int(sys.argv[1]))
