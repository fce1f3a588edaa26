"""Ray: `ray_noop.py JOBS FOLDER` prints one JSON object. Nothing is durable: all of it is in memory."""

import json
import os
import sys
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray  # noqa: E402

jobs, folder = int(sys.argv[1]), sys.argv[2]
ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False, _temp_dir=folder,
         object_store_memory=256 << 20)


@ray.remote
def noop(payload):
    return {"ok": 1, "n": len(payload)}


payload = b"x" * 200
ray.get([noop.remote(payload) for _ in range(500)])
begin = time.perf_counter()
answers = ray.get([noop.remote(payload) for _ in range(jobs)])
seconds = time.perf_counter() - begin
assert len(answers) == jobs and all(answer["n"] == 200 for answer in answers)
times = []
for _ in range(500):
    start = time.perf_counter()
    ray.get(noop.remote(payload))
    times.append((time.perf_counter() - start) * 1e3)
times.sort()
ray.shutdown()
print(json.dumps({"jobs": jobs, "seconds": seconds, "jobs_per_second": jobs / seconds,
                  "lone_ms": {"p50": times[250], "p99": times[495]}}))
