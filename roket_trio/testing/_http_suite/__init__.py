"""The HTTP suite: how HTTP servers and clients end connections, answers and uploads, in cases ``http/...``.

It is of the same form as the close suite, which runs it. It looks at FIN, RST, descriptors and time.

====================  =================================================================================================
``cases``             ``HTTP_CASES``: all cases
``server_cases``      those for servers, with addresses, levels and reasons
``client_cases``      those for clients
``*_scripts``         what the client of such a case does, or the server: ``client_scripts``, ``early_scripts`` and
                      ``session_scripts``
``script_steps``      what several scripts of clients do
``channel``           what both do with a connection, plain or TLS
``conversation``      a client's end of one
``exchange``          a server's end of one
``client_run``        how a client is run: it is given a URL, and makes as many connections as it likes
``client_judging``    what such a client made of an answer
``crowd``             a thousand clients in one thread
``answers``           what bytes an HTTP server's answers are, and whether they are whole
====================  =================================================================================================
"""
