"""What became of an architecture, and how far it came."""

import dataclasses
import traceback

STAGES = ("class", "configuration", "build", "eager", "informative", "export", "equal", "program", "done")


class Failed(ValueError):
    """The architecture went no further than `stage`."""

    def __init__(self, stage: str, cause: str, where: str = ""):
        super().__init__(cause)
        self.stage, self.cause, self.where = stage, " ".join(cause.split())[:400], where


@dataclasses.dataclass
class Found:
    """What became of an architecture."""

    name: str
    stage: str
    library: str = ""  # name and version
    model_class: str = ""
    strength: str = ""
    inputs: list[str] = dataclasses.field(default_factory=list)
    outputs: list[str] = dataclasses.field(default_factory=list)
    patches: list[str] = dataclasses.field(default_factory=list)
    fixed_batch: str = ""  # why; empty: the batch dimension is dynamic
    signals: str = ""  # modules whose outputs are dead or huge with mock weights
    mended: str = ""  # fields of the small configuration that errors told of, as JSON
    cause: str = ""
    where: str = ""  # file and line of the library
    nodes: int = 0
    parameters: int = 0

    @property
    def ok(self) -> bool:
        return self.stage == "done"


def text(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def where(error: BaseException) -> str:
    """The last place in the library on the way to the error."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/transformers/" in f.filename]
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno} {frames[-1].name}" if frames else ""
