"""Why a checkpoint has no program; each ends in one outcome of result.json."""


class Refused(Exception):
    """Ends the export with `outcome`, one of the Outcomes that result.json may have."""

    outcome = "FAILED"


class Unsupported(Refused):
    """Nothing is wrong with the checkpoint: Assay does not run its like."""

    outcome = "UNSUPPORTED"


class OutOfMemory(Refused):
    outcome = "OUT_OF_MEMORY"


def one_line(error: BaseException, limit: int = 400) -> str:
    """The kind of an error and its text without line breaks, cut to `limit` characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:limit]
