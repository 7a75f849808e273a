"""The streams over a connection: ``sockets`` (TCP and UNIX) and ``tls``, which drives OpenSSL by ``tls_records``."""
