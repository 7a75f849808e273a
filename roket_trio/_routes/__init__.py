"""How bytes move between two ends.

``route`` is the way of one transfer: a kernel's route while the kernel takes it, then ``plain_loop``. ``progress`` is
the count that both keep. ``file_to_socket``, ``socket_to_file``, ``socket_to_socket`` and ``file_to_file`` are the
kernel's routes (``kernel_route``), and ``table`` chooses among them. ``ends`` says what the plain loop needs of a
source and a sink; ``file_ends``, ``connection_ends`` and ``foreign_ends`` are these. ``fair_share`` bounds what
transfers take of a turn of the event loop, ``rate_limit`` the bytes a second. ``counts`` checks callers' numbers.
"""
