"""Runs batches on a cluster whose parts are killed on the way, and checks that every result is there once."""

import argparse
import collections
import json
import pathlib
import sys
import time

from cluster import SOURCE, Cluster, Failed, until

BATCHES = sorted((SOURCE / "models" / "batches").glob("batch_*_models.json"))


def main():
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("--coordinators", type=int, default=3)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kill-coordinators", type=int, default=1)
    parser.add_argument("--kill-workers", type=int, default=2)
    parser.add_argument("--keep-database", action="store_true", help="do not restart PostgreSQL on the way")
    parser.add_argument("--batch-file", action="append", type=pathlib.Path, help="default: the plan's six")
    parser.add_argument("--logs", type=pathlib.Path, help="folder that gets the processes' logs if a check fails")
    options = parser.parse_args()
    if options.kill_coordinators >= options.coordinators or options.kill_workers >= options.workers:
        parser.error("some of them must stay")
    cluster = Cluster(options.coordinators, options.workers)
    try:
        with cluster:
            try:
                run(cluster, options)
            except BaseException:
                if options.logs:
                    cluster.keep_logs(options.logs)
                raise
    except Failed as failed:
        print(f"cluster: FAILED: {failed}", file=sys.stderr)
        return 1
    return 0


def run(cluster, options):
    began = time.monotonic()

    def say(text):
        print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True)

    say(f"PostgreSQL, {options.coordinators} coordinators and {options.workers} workers are started")
    files = options.batch_file or BATCHES
    plan = sorted(m["name"] for file in files for models in json.loads(file.read_text()).values() for m in models)
    batches = cluster.submit(files)
    say(f"submitted {len(files)} batches with {len(plan)} jobs")
    for i, batch in enumerate(batches):
        cluster.watch(batch, first=i)

    def done(goal):
        return until(lambda: sum(j["state"] == "DONE" for j in cluster.seen().values()) >= goal, f"{goal} results")

    # Workers first: there must be something that they hold, however fast the machine is.
    steps = ["worker"] * options.kill_workers
    steps += ["coordinator"] * options.kill_coordinators
    steps += [] if options.keep_database else ["database"]
    for number, step in enumerate(steps):
        done(len(plan) * number // (len(steps) + 2))
        if step == "coordinator":
            name = next(iter(cluster.coordinators))
            cluster.kill(cluster.coordinators, name)
            say(f"killed {name}")
        elif step == "worker":
            kill_a_worker(cluster, say)
        else:
            cluster.postgres.stop()
            say("PostgreSQL crashed")
            cluster.postgres.start()
            say("PostgreSQL is back")

    done(len(plan))
    say("every job has ended")
    check(cluster, batches, plan)
    say(f"all {len(plan)} results are there once, and PASSED")
    took_part = collections.Counter(job["worker"] for job in cluster.jobs(batches))
    say("results by worker: " + ", ".join(f"{name} {count}" for name, count in sorted(took_part.items())))


def kill_a_worker(cluster, say):
    """One that holds something; then waits until that is given up."""
    held = collections.defaultdict(dict)

    def somebody_holds_something():
        held.clear()
        for id, job in cluster.seen().items():
            if job["state"] == "RUNNING" and job["worker"] in cluster.workers:
                held[job["worker"]][id] = int(job["attempt"])
        return held

    until(somebody_holds_something, "a worker that holds a job", patience=60)
    name = max(sorted(held), key=lambda worker: len(held[worker]))
    cluster.kill(cluster.workers, name)
    killed = time.monotonic()
    say(f"killed {name}, which held {len(held[name])} jobs")

    def given_up():
        jobs = cluster.seen()
        return all(jobs[id]["state"] in ("QUEUED", "DONE") or int(jobs[id]["attempt"]) > attempt
                   for id, attempt in held[name].items())

    until(given_up, "the killed worker's jobs to be given up")
    took = time.monotonic() - killed
    say(f"its jobs had ended, were queued again or ran elsewhere {took:.1f} s later")
    if took > 5:
        raise Failed(f"a dead worker kept its jobs for {took:.1f} s")


def check(cluster, batches, plan):
    jobs = cluster.jobs(batches)
    if sorted(job["model"]["name"] for job in jobs) != plan:
        raise Failed("the jobs are not those of the plan")
    bad = [f"{job['job_id']} {job['result']['outcome']}: {job['result'].get('message', '')}" for job in jobs
           if job["result"]["outcome"] != "PASSED"]
    if bad:
        raise Failed("not PASSED: " + "; ".join(bad))
    total = 0
    for batch in batches:
        shown = json.loads(cluster.assay("show", batch, "-o", "json"))["batch"]
        counted = sum(int(count["count"]) for count in shown["counts"])
        if not int(shown["total"]) == int(shown["done"]) == counted:
            raise Failed(f"{batch}: {shown['total']} jobs, {shown['done']} done, {counted} counted")
        total += counted
        # What a watcher saw that followed through all of it.
        events = cluster.events(batch)
        numbers = [int(event["sequence"]) for event in events]
        if numbers != list(range(1, len(numbers) + 1)):
            raise Failed(f"{batch}: the watcher's events are numbered {numbers}")
        ends = collections.Counter(e["job"]["job_id"] for e in events if e.get("job", {}).get("state") == "DONE")
        if len(ends) != counted or set(ends.values()) != {1}:
            raise Failed(f"{batch}: the watcher saw these ends: {dict(ends)}")
    if total != len(plan):
        raise Failed(f"{total} results were counted for {len(plan)} jobs")


if __name__ == "__main__":
    sys.exit(main())
