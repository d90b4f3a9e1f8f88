"""What a run can refuse, as one small tree:

AnodiffError          anything this project says no to, in one clear message
├── DataError         a picture, a mask or a folder of the user's data
├── ConfigError       a field of the run's configuration
└── ArtifactError     a stage's folder in the store
    └── StoreUnreachableError   a store that lies elsewhere: the one that may pass
"""


class AnodiffError(Exception):
    """Base of the errors that the command line prints as a message instead of a traceback."""


class DataError(AnodiffError):
    """A picture, mask or data folder cannot be used as it is."""


class ConfigError(AnodiffError):
    """A field of the run's configuration is unknown or out of range."""


class ArtifactError(AnodiffError):
    """A stage's folder is missing, incomplete or does not match its manifest."""


class StoreUnreachableError(ArtifactError):
    """A store that lies elsewhere does not answer, or refuses: may pass, unlike other errors of ours."""
