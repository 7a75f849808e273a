"""The streams over a connection: ``sockets`` (TCP), ``unix_sockets`` and ``tls``.

``wrap_tls`` and ``tls_listener`` make TLS streams; ``tls_records`` drives OpenSSL; ``adopted`` checks sockets that are
handed over; ``transport`` finds the socket of a stream.
"""
