"""python -m assay_exporter.convert NAME SOURCE DESTINATION

SOURCE is an unpacked package, DESTINATION a folder that does not exist yet. Needs no network.
"""

import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import transformers

from . import CONVERTERS, ConversionError, all_modules


def main(argv: list[str]) -> int:
    all_modules()
    if len(argv) != 3 or argv[0] not in CONVERTERS:
        print(__doc__.strip(), file=sys.stderr)
        for known in CONVERTERS.values():
            print(f"  {known.name:20} {known.description}", file=sys.stderr)
        return 2
    name, source, destination = argv[0], pathlib.Path(argv[1]), pathlib.Path(argv[2])
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        destination.mkdir(parents=True)
        CONVERTERS[name].convert(source, destination)
    except (ConversionError, OSError) as error:
        print(f"convert {name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
