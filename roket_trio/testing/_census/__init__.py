"""Which sockets a process holds: ``census`` takes them, ``observers`` ask the kernel, ``records`` is one socket."""
