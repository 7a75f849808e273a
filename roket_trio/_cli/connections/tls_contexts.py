"""The contexts for TLS that the options ask for."""

from __future__ import annotations

import os
import ssl
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from ..console.exit_codes import CommandError, ExitCode, local_file_error


def client_context(options: Namespace) -> ssl.SSLContext | None:
    """The context that the options ask for; ``None``: no TLS.

    :raises CommandError: a certificate that cannot be used
    """
    if options.key and not options.cert:
        raise CommandError(ExitCode.USAGE, "--key needs --cert")
    if not (options.tls or options.cafile or options.tls_name or options.cert):
        return None
    if options.address.is_unix and not options.tls_name:
        raise CommandError(ExitCode.USAGE, "TLS over a UNIX socket needs --tls-name")
    context = _loaded(options.cafile, lambda: ssl.create_default_context(cafile=options.cafile))
    return _with_certificate(context, options)


def server_context(options: Namespace) -> ssl.SSLContext | None:
    """The same for who listens."""
    if not options.cert:
        if options.tls or options.cafile or options.key:
            raise CommandError(ExitCode.USAGE, "TLS needs --cert")
        return None
    context = _loaded(
        options.cafile, lambda: ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=options.cafile)
    )
    if options.cafile:
        context.verify_mode = ssl.CERT_REQUIRED
    return _with_certificate(context, options)


def _with_certificate(context: ssl.SSLContext, options: Namespace) -> ssl.SSLContext:
    if options.cert:
        try:
            context.load_cert_chain(options.cert, options.key, password=_no_password)
        except ssl.SSLError as error:  # it does not say which of the two is wrong
            what = f"the key in {options.key}" if options.key else "its key; --key names one in a file of its own"
            raise CommandError(
                ExitCode.LOCAL_FILE, f"{options.cert} is no PEM file of a certificate with {what}"
            ) from error
        except OSError as error:  # nor which of them is missing
            name = next((name for name in (options.cert, options.key) if not os.access(name, os.R_OK)), options.cert)
            raise local_file_error(name, error, "reading") from error
    return context


def _no_password() -> str:
    raise CommandError(ExitCode.LOCAL_FILE, "the key is encrypted; a key without a password is needed")


def _loaded(name: str | None, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ssl.SSLError as error:
        raise CommandError(
            ExitCode.LOCAL_FILE, f"{name} is no PEM file with what is needed: {tls_reason(error)}"
        ) from error
    except OSError as error:
        raise local_file_error(name or "the certificates of the system", error, "reading") from error


def tls_reason(error: ssl.SSLError) -> str:
    """What went wrong in a handshake, without OpenSSL's source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
