"""Errors that a user can cause; each knows the exit code of the command."""

from __future__ import annotations


class FoldError(Exception):
    """A run that can't go on. The message is one line: what was given, where, and the way out."""

    exit_code = 70


class FlagError(FoldError):
    """The flags are wrong or contradict each other."""

    exit_code = 1


class InputError(FoldError):
    """The input can't be used."""

    exit_code = 2


class VerificationError(FoldError):
    """The result does not compute what the original computes, or that could not be found out."""

    exit_code = 3


class UnfoldedError(FoldError):
    """A batch norm stayed, and the user asked for none to stay."""

    exit_code = 4


class ConverterError(FoldError):
    """A converter stage refused the folded graph."""

    exit_code = 5


class OutputError(FoldError):
    """An output can't be written."""

    exit_code = 6
