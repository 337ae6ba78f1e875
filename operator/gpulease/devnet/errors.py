"""How the chain says no: a codespace, a code and a text (module errors of the recorded chain)."""

from __future__ import annotations

from gpulease.errors import GpuleaseError


class ModuleError(GpuleaseError):
    """A transaction's failure; ``undefined`` is the codespace of errors that no module registered."""

    def __init__(self, codespace: str, code: int, text: str) -> None:
        super().__init__(text)
        self.codespace = codespace
        self.code = code
        self.text = text

    def wrap(self, prefix: str) -> ModuleError:
        return ModuleError(self.codespace, self.code, f"{prefix}: {self.text}")


class Panic(GpuleaseError):
    """A Go panic inside a message: sdk code 111222 of no codespace, the text after ``recovered:``."""


class QueryError(GpuleaseError):
    """A gRPC query's refusal; ``code`` is the gRPC status number."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class HeightError(QueryError):
    """A height whose state is not there: ``abci_query`` shows the module's error itself."""

    def __init__(self, error: ModuleError) -> None:
        answer = refused(error)
        super().__init__(answer.code, answer.message)
        self.error = error


def refused(error: ModuleError) -> QueryError:
    """A module's error as gRPC shows it: its own words first, then what it wraps."""
    wrapped, _, own = error.text.rpartition(": ")
    text = f"{own}: {wrapped}" if wrapped else own
    return QueryError(2, f"codespace {error.codespace} code {error.code}: {text}")


UNKNOWN = 2
NOT_FOUND = 5
INVALID_ARGUMENT = 3
UNIMPLEMENTED = 12
INTERNAL = 13


def undefined(text: str) -> ModuleError:
    return ModuleError("undefined", 1, text)


def sdk(code: int, text: str) -> ModuleError:
    return ModuleError("sdk", code, text)


def market(code: int, text: str) -> ModuleError:
    return ModuleError("market", code, text)


def deployment(code: int, text: str) -> ModuleError:
    return ModuleError("deployment", code, text)


def escrow(code: int, text: str) -> ModuleError:
    return ModuleError("escrow", code, text)


def provider(code: int, text: str) -> ModuleError:
    return ModuleError("provider", code, text)


def cert(code: int, text: str) -> ModuleError:
    return ModuleError("cert", code, text)
