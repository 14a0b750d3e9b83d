"""The errors a user can cause: one base class, one subclass for each boundary that a message can come from.

A message says what was given, why it cannot work, and what to do instead. The command line prints it without a
traceback and exits with code 2.
"""


class ReflectRLError(Exception):
    """Base of every error that is the user's to mend."""


class SettingsError(ReflectRLError):
    """A recipe, an override or a combination of settings that cannot work."""


class EnvironmentContractError(ReflectRLError):
    """An environment that breaks the TextEnv contract (or was used against it)."""


class TeacherError(ReflectRLError):
    """A teacher that could not write a reflection."""


class ModelError(ReflectRLError):
    """A model or tokenizer that cannot be loaded, or cannot do what is asked of it."""


class PromptError(ReflectRLError):
    """A prompt that cannot be written from what was given, or does not fit the token budget."""


class RunFolderError(ReflectRLError):
    """A run folder, or a file in it, that is missing, damaged or cannot be written."""


class SelectionError(ReflectRLError):
    """A pool, a budget or a strategy's input that cannot be selected from."""
