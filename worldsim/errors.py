"""Errors caused by a user's input. Every message is one line that names the input and the fix."""


class WorldsimError(ValueError):
    """Base of all errors that a user can fix. The command line prints the message and exits with code 2."""


class ConfigError(WorldsimError):
    """A key or value of a configuration is unknown or out of range."""


class UnknownEnvError(WorldsimError):
    """No Gymnasium environment or configuration has this name."""


class EnvError(WorldsimError):
    """An environment returns values that its spaces or Gymnasium's interface do not allow."""


class MissingExtraError(WorldsimError):
    """An optional package is needed; the message says which extra installs it."""


class DatasetError(WorldsimError):
    """A data set is missing, empty, damaged, or was used for training and must not be used for validation."""


class SpaceMismatchError(WorldsimError):
    """Spaces of a data set, a model or an environment differ."""


class CheckpointError(WorldsimError):
    """A checkpoint is missing, cut short, or of another version."""
