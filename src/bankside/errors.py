"""Errors that `bankside` shows to its users.

Every message says what is wrong, where, what was expected and what to do about it.
"""


class BanksideError(Exception):
    """Base of every error that the command line turns into exit code 2."""


class ConfigError(BanksideError):
    """A hardware, model or run description that cannot be used."""


class SpecError(BanksideError):
    """An instruction-set or DRAM specification that contradicts itself."""


class ProgramError(BanksideError):
    """A program that the machine cannot legally execute."""


class ToolError(BanksideError):
    """An external tool (compiler, simulator) that is missing or failed."""
