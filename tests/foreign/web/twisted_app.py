"""What every server of the table serves (see ``asgi_app.py``), with twisted.web: PORT."""

from __future__ import annotations

import sys

from twisted.internet import endpoints, reactor, task
from twisted.web import resource, server

LARGE = bytes(16 << 20)


class Hello(resource.Resource):
    def render_GET(self, request: server.Request) -> bytes:
        return b"hello\n"


class Large(resource.Resource):
    def render_GET(self, request: server.Request) -> bytes:
        return LARGE


class Slow(resource.Resource):
    def render_GET(self, request: server.Request) -> int:
        request.setHeader(b"Content-Length", b"20")

        def piece(count: int) -> None:
            if count == 10:
                request.finish()
                return
            request.write(b".\n")
            later = task.deferLater(reactor, 0.2, piece, count + 1)
            gone.addErrback(lambda failure: later.cancel())
            later.addErrback(lambda failure: failure.trap(task.defer.CancelledError))

        gone = request.notifyFinish()
        piece(0)
        return server.NOT_DONE_YET


class Upload(resource.Resource):
    def render_POST(self, request: server.Request) -> bytes:
        return b"%d\n" % len(request.content.read())

    render_PUT = render_POST


class Refuse(resource.Resource):
    def render_POST(self, request: server.Request) -> bytes:  # twisted.web has read the body before it asks
        request.setResponseCode(413)
        return b"too large\n"

    render_PUT = render_POST


class Fail(resource.Resource):
    def render_GET(self, request: server.Request) -> bytes:
        request.setHeader(b"Content-Length", b"200000")
        request.write(bytes(100_000))
        raise RuntimeError("half-way through the answer")


root = resource.Resource()
for name, page in (
    (b"", Hello),
    (b"large", Large),
    (b"slow", Slow),
    (b"upload", Upload),
    (b"refuse", Refuse),
    (b"fail", Fail),
):
    root.putChild(name, page())
endpoints.TCP4ServerEndpoint(reactor, int(sys.argv[1]), interface="127.0.0.1").listen(server.Site(root))
reactor.run()
