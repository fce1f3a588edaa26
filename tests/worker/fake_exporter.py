"""Speaks as assay_exporter does and makes nothing: what it hands out lies ready in made/. What it does is in the
file `behaviour`, both beside its package. Every run prints a line that begins with RAN."""

import json
import os
import shutil
import signal
import socket
import sys
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def tried(what):
    try:
        what()
        return "yes"
    except OSError:
        return "no"


def main():
    if sys.argv[1] == "identity":
        print("a warning of some library")
        print(json.dumps({"exporter": "c0de", "transformers": "4.0", "torch": "2.0"}))
        return
    request = json.load(open(sys.argv[sys.argv.index("--request") + 1]))
    out = sys.argv[sys.argv.index("--out") + 1]
    kind = open(os.path.join(HERE, "behaviour")).read().strip()
    print("RAN", kind, "with" if request["program"] else "without", "program", request["model_class"], flush=True)

    def give(name):
        shutil.copyfile(os.path.join(HERE, "made", name), os.path.join(out, name))
        return name

    result = {
        "outcome": "PASSED",
        "message": "",
        "model_class": "transformers.GPT2LMHeadModel",
        "model_type": "gpt2",
        "program": "" if request["program"] else give("program"),
        "golden": give("golden") if request["want_golden"] else "",
        "no_golden": "" if request["want_golden"] else "not asked for",
        "weights": "",
        "memory_bytes": 4096,
        "seconds": {"program": 1.5, "golden": 0.5},
    }
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "exit":
        sys.exit("boom")
    elif kind == "hang":
        time.sleep(600)
    elif kind == "memory":
        hoard = bytearray(b"x") * (600 << 20)
        time.sleep(600)
        print(len(hoard))
    elif kind == "escape":
        result["program"] = "../request.json"
    elif kind == "missing":
        result["program"] = "nothing"
    elif kind == "linked":
        os.symlink("/etc/passwd", os.path.join(out, "link"))
        result["program"] = "link"
    elif kind == "outcome":
        result["outcome"] = "SURELY"
    elif kind == "text":
        result = "PASSED"
    elif kind == "shapes" and request["program"]:
        result.update(outcome="UNSUPPORTED", message="the program given takes input_ids of [2, 32], not [2, 64]")
    elif kind == "unsupported":
        result.update(outcome="UNSUPPORTED", message="unknown model type sphinx")
    elif kind == "rubbish":
        result["program"] = "rubbish"
        open(os.path.join(out, "rubbish"), "w").write("no program")
    elif kind == "other_golden":
        result["golden"] = give("other_golden")
    elif kind == "large":
        result["golden"] = give("inputs")
        result["no_golden"] = "too large for this exporter"
    elif kind == "pickle" and request["allow_pickle"]:
        result["weights"] = give("model.safetensors")
    elif kind == "walls":
        found = {
            "network": tried(lambda: socket.create_connection(("127.0.0.1", 1))),
            "socket": tried(socket.socket),
            "home": tried(lambda: os.listdir(os.path.join(HERE, "..", "home"))),
            "write": tried(lambda: open(os.path.join(HERE, "planted"), "w")),
            "parent": tried(lambda: open(f"/proc/{os.getppid()}/environ").read()),
            "checkpoint": tried(lambda: open(os.path.join(request["folder"], "config.json")).read()),
            "out": tried(lambda: open(os.path.join(out, "mine"), "w")),
            "secret": "yes" if "HF_TOKEN" in os.environ else "no",
        }
        result.update(outcome="FAILED", message=" ".join(f"{name}={can}" for name, can in found.items()))
    with open(os.path.join(out, "result.json"), "w") as file:
        json.dump(result, file)


main()
