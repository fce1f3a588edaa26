"""python -m assay_exporter.eager --device cuda|cpu --dtype DTYPE NAMES…

What a team without Assay would do: one Python process that imports transformers, builds each model, puts it on the
device and runs it once. Prints {name: seconds} as its last line; a model that fails has no entry and a line on
standard error. scripts/gpu_check times the process as a whole.
"""

import argparse
import json
import sys
import time

import torch

from . import builders, catalogue, inputs, weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _place(value, device: str, dtype: torch.dtype):
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


@torch.no_grad()
def run(name: str, device: str, dtype: torch.dtype) -> float:
    """Seconds from the catalogue entry to the outputs on the CPU."""
    start = time.monotonic()
    entry = catalogue.load(name)
    built = builders.build(entry)
    made = inputs.MAKERS[entry.input_maker](built.config)
    given = {item.name: item.make(weights.SEED) for item in made if isinstance(item, inputs.Input)}
    for item in made:
        if isinstance(item, dict):
            given |= item
    model = built.model.to(device, dtype)
    output = model(**{name: _place(value, device, dtype) for name, value in given.items()})
    first = next(iter(output.values())) if hasattr(output, "values") else output[0]
    if isinstance(first, torch.Tensor):
        first.cpu()  # waits for the device
    return time.monotonic() - start


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m assay_exporter.eager", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--dtype", choices=tuple(DTYPES), required=True)
    parser.add_argument("names", nargs="+", metavar="NAMES")
    options = parser.parse_args(argv)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    seconds = {}
    for name in options.names:
        try:
            seconds[name] = run(name, options.device, DTYPES[options.dtype])
        except Exception as error:  # noqa: BLE001 - whatever a model's own code does in this dtype
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
    print(json.dumps(seconds))
    return 0 if seconds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
