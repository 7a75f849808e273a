"""The TLS contexts that the options ask for, and TLS errors in words."""

from __future__ import annotations

import os
import ssl
from argparse import Namespace

from ..console.exit_codes import CommandError, ExitCode, local_file_error


def client_context(options: Namespace) -> ssl.SSLContext | None:
    """The context of a client; ``None`` without TLS.

    :raises CommandError: the options contradict each other, or a file cannot be used
    """
    if options.key and not options.cert:
        raise CommandError(ExitCode.USAGE, "--key needs --cert")
    if not (options.tls or options.cafile or options.tls_name or options.cert):
        return None
    if options.address.is_unix and not options.tls_name:
        raise CommandError(ExitCode.USAGE, "TLS over a UNIX socket needs --tls-name")
    context = _context(ssl.Purpose.SERVER_AUTH, options.cafile)
    _load_certificate(context, options)
    return context


def server_context(options: Namespace) -> ssl.SSLContext | None:
    """The context of a server; ``None`` without TLS.

    :raises CommandError: the options contradict each other, or a file cannot be used
    """
    if not options.cert:
        if options.tls or options.cafile or options.key:
            raise CommandError(ExitCode.USAGE, "TLS needs --cert")
        return None
    context = _context(ssl.Purpose.CLIENT_AUTH, options.cafile)
    if options.cafile:
        context.verify_mode = ssl.CERT_REQUIRED
    _load_certificate(context, options)
    return context


def _context(purpose: ssl.Purpose, cafile: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(purpose, cafile=cafile)
    except ssl.SSLError as error:
        raise CommandError(ExitCode.LOCAL_FILE, f"{cafile} is no usable PEM file: {tls_error_text(error)}") from error
    except OSError as error:
        raise local_file_error(cafile or "the certificates of the system", error, "reading") from error


def _load_certificate(context: ssl.SSLContext, options: Namespace) -> None:
    if not options.cert:
        return
    try:
        context.load_cert_chain(options.cert, options.key, password=_no_password)
    except ssl.SSLError as error:  # OpenSSL does not say which of the two files is wrong
        key = f"the key in {options.key}" if options.key else "its key; --key names the file of a separate key"
        raise CommandError(ExitCode.LOCAL_FILE, f"{options.cert} is no PEM file of a certificate with {key}") from error
    except OSError as error:  # nor does it say which of them is missing
        name = next((name for name in (options.cert, options.key) if not os.access(name, os.R_OK)), options.cert)
        raise local_file_error(name, error, "reading") from error


def _no_password() -> str:
    raise CommandError(ExitCode.LOCAL_FILE, "the key is encrypted, but only a key without a password can be used")


def tls_error_text(error: ssl.SSLError) -> str:
    """The reason of a failed handshake, without OpenSSL's source lines."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
