"""Every error that masklake raises on purpose.

MasklakeError                  the command ends with this one line; `--debug` shows the traceback
├── ConfigError                an option or a field of the TOML file is wrong: mend it and run again
├── StorageError               a bucket, prefix or endpoint as a whole cannot be used
│   └── ConflictError          another writer changed the object first: read it again, then decide
├── ModelError                 the checkpoint cannot be loaded, or does not fit the images
├── RegistryError              a name, version or alias of the registry is wrong, missing or there already
│   ├── PromotionRefusedError  the gate: worse than the current version, or not comparable; --force
│   └── ConcurrentPromotionError  another command moved the alias first; nothing was changed
├── TableError                 the table is missing, is something else, or has another schema
│   └── ConcurrentRunError     another command wrote to the table in mid-run; nothing of it is lost
├── ClusterError               Ray did not start, cannot be reached, or ended the run
├── StalledError               nothing moved for the stall timeout
├── InterruptedRun             Ctrl-C or SIGTERM: no fault, what was finished is committed
└── ImageError                 one image is at fault: becomes its `failed` row, its neighbours go on
    ├── FetchError             transient: the next run tries the image again
    ├── DecodeError            permanent: waits for a new version of the object, or --retry-failed
    ├── LimitError             permanent: over the pixel limit, or the time limit of decoding
    ├── PredictError           permanent: the network failed on it
    └── LabelError             its mask or annotations are not labels of it: training is refused
"""

from pipeline.harmless import without_secrets


class MasklakeError(Exception):
    """Base of all: the message is one line that says what was expected, what came and what to do.

    It never holds a secret, whatever it quotes.
    """

    transient = False  # True: the same command may well succeed a little later

    def __init__(self, *told: object) -> None:
        super().__init__(*(without_secrets(text) if isinstance(text, str) else text for text in told))


class ConfigError(MasklakeError):
    """An option or a configuration field has a value that cannot be used."""

    at: int | None = None  # where in a text of several words, counted from 0; None: it is all of it


class StorageError(MasklakeError):
    """A bucket, prefix, endpoint or credential cannot be used; no single image is at fault."""

    problem = ""  # the two halves of the message, where `explain` made it
    remedy = ""


class ConflictError(StorageError):
    """Another writer changed an object between our read and our write; ours did not happen."""


class ModelError(MasklakeError):
    """A checkpoint cannot be loaded, or does not fit the images."""


class RegistryError(MasklakeError):
    """A name, version or alias of the registry cannot be used, is missing, or is there already."""


class PromotionRefusedError(RegistryError):
    """The candidate is worse than the current version by more than the margin, or cannot be compared."""


class ConcurrentPromotionError(RegistryError):
    """Another command moved the alias while this one decided; nothing was changed."""


class TableError(MasklakeError):
    """The table is missing, is something else, or has another schema."""


class ConcurrentRunError(TableError):
    """Another command committed to the table while this one was running."""

    transient = True


class ClusterError(MasklakeError):
    """Ray did not start, cannot be reached, or ended the run; what was finished is kept."""

    transient = True


class StalledError(MasklakeError):
    """Nothing moved for longer than the stall timeout."""

    transient = True


class InterruptedRun(MasklakeError):  # noqa: N818 - not a fault: the user asked for it
    """Ctrl-C or SIGTERM ended the run; what was finished is committed."""

    def __init__(self, signum: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = 128 + signum


class ImageError(MasklakeError):
    """One image is at fault. `stage` names the stage for the image's row."""

    stage = "unknown"


class FetchError(ImageError):
    """The object's bytes could not be read. Transient: the next run tries it again."""

    stage = "fetch"
    why = ""  # gone | changed | denied: for who wants to tell them apart


class DecodeError(ImageError):
    """The bytes are not an image that is read here. Permanent for this version of the object."""

    stage = "decode"


class LimitError(ImageError):
    """The image is over the pixel or the time limit. Permanent for this version of the object."""

    stage = "limit"


class PredictError(ImageError):
    """The network failed on this image. Permanent for this version of the object."""

    stage = "predict"


class LabelError(ImageError):
    """The mask or the annotations of a labelled image cannot be its labels."""

    stage = "label"
