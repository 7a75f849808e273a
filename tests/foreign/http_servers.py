"""HTTP servers as their documentation has them, for ``roket check --speaks http --server``. A table; pure.

Each serves what ``web/asgi_app.py`` says, as far as it is a thing that it can be told. Files: those that serve a
directory get the suite's (``{directory}``), and know neither uploads nor slow answers.
"""

from __future__ import annotations

from foreign.built import BUILDS
from foreign.programs import BUILT, CONFIGURED, HERE, PYTHON, Program

WEB = f"{HERE}/web"
APPLICATION = {"large_path": "/large", "slow_path": "/slow", "upload_path": "/upload", "failing_path": "/fail"}
FILES = {"large_path": "/large", "slow_path": "/slow"}


def application(name: str, command: str, *packages: str, **more: object) -> Program:
    """A server with an application behind it that serves everything."""
    return _server(name, command, APPLICATION, "/refuse", packages=packages, **more)


def _server(name: str, command: str, http: dict[str, str], refuse: str | None = None, **more: object) -> Program:
    return Program(name, command, ("server",), "http", http=http, refuse_path=refuse, **more)  # type: ignore[arg-type]


def _built(name: str, build: str, version: str | None = None) -> Program:
    tool = BUILDS[build].tool
    option = "version" if tool == "go" else "--version"
    more = {"tools": (tool,), "version_option": option, "built": build, "version_of_build": version}
    return _server(name, f"{BUILT}{build} {{port}}", APPLICATION, "/refuse", **more)


def _configured(name: str, server: str, http: dict[str, str], **more: object) -> Program:
    command = server if server != "apache" else "apache2"
    return _server(name, f"{CONFIGURED}{server} {{port}}", http, "/refuse", tools=(command,), **more)


ASGI = "asgi_app:app"
HYPERCORN = f"python -W ignore -m hypercorn --bind 127.0.0.1:{{port}} {WEB}/{ASGI}"
UVICORN = f"python -W ignore -m uvicorn --app-dir {WEB} --port {{port}}"
GUNICORN = f"python -W ignore -m gunicorn --chdir {WEB} --bind 127.0.0.1:{{port}}"

SERVERS: tuple[Program, ...] = (
    # Python, ASGI
    application("uvicorn (h11)", f"{UVICORN} --http h11 {ASGI}", "uvicorn", "h11"),
    application(
        "uvicorn (httptools, uvloop)", f"{UVICORN} --http httptools --loop uvloop {ASGI}", "uvicorn", "httptools"
    ),
    application("hypercorn (asyncio)", HYPERCORN, "hypercorn"),
    application("hypercorn (uvloop)", f"{HYPERCORN} --worker-class uvloop", "hypercorn", "uvloop"),
    application("hypercorn (Trio)", f"{HYPERCORN} --worker-class trio", "hypercorn", "trio"),
    application("anycorn", f"python -W ignore -m anycorn --bind 127.0.0.1:{{port}} {WEB}/{ASGI}", "anycorn"),
    application(
        "granian",
        f"python -W ignore -m granian --interface asgi --working-dir {WEB} --port {{port}} {ASGI}",
        "granian",
    ),
    application("daphne", f"python -W ignore -m daphne --port {{port}} {WEB.replace('/', '.')}.{ASGI}", "daphne"),
    # Python, WSGI
    application("gunicorn (sync)", f"{GUNICORN} wsgi_app:app", "gunicorn"),
    application("gunicorn (gthread)", f"{GUNICORN} --threads 8 wsgi_app:app", "gunicorn"),
    application("gunicorn (gevent)", f"{GUNICORN} --worker-class gevent wsgi_app:app", "gunicorn", "gevent"),
    application("waitress", f"{PYTHON}web/wsgi_app.py waitress {{port}}", "waitress"),
    application("cheroot", f"{PYTHON}web/wsgi_app.py cheroot {{port}}", "cheroot"),
    application("gevent", f"{PYTHON}web/wsgi_app.py gevent {{port}}", "gevent"),
    application("wsgiref", f"{PYTHON}web/wsgi_app.py wsgiref {{port}}"),
    # Python, others
    application("aiohttp", f"{PYTHON}web/aiohttp_app.py {{port}}", "aiohttp"),
    application("tornado", f"{PYTHON}web/tornado_app.py {{port}}", "tornado"),
    application("twisted", f"{PYTHON}web/twisted_app.py {{port}}", "twisted"),
    application("http.server", f"{PYTHON}web/http_server.py {{port}}"),
    # other languages
    application("Node", f"node {WEB}/node_http.js {{port}}", tools=("node",)),
    _built("Go net/http", "go-http"),
    _built("axum (hyper)", "axum", "axum 0.8.9"),
    _built("Java HttpServer", "java-http"),
    # servers that are told by a file
    _configured("nginx", "nginx", {**FILES, "upload_path": "/upload"}, version_option="-v"),
    _configured("Apache", "apache", APPLICATION, version_option="-v"),
    _configured("lighttpd", "lighttpd", APPLICATION, version_option="-v"),
    _configured("caddy", "caddy", {"large_path": "/large"}, version_option="version"),
    _configured("HAProxy", "haproxy", {}, version_option="-v"),
    # servers of files
    _server("python -m http.server", "python -m http.server --bind 127.0.0.1 --directory {directory} {port}", {}),
    _server(
        "busybox httpd",
        "busybox httpd -f -p 127.0.0.1:{port} -h {directory}",
        {},
        tools=("busybox",),
        version_option="",
    ),
    _server("php -S", "php -S 127.0.0.1:{port} -t {directory}", {}, tools=("php",)),
    _server("roket serve", "python -m roket_trio serve {directory} --bind {port}", {}, packages=("roket-trio", "h11")),
    # TLS
    application(
        "uvicorn (TLS)", f"{UVICORN} --ssl-certfile {{cert}} --ssl-keyfile {{key}} {ASGI}", "uvicorn", tls=True
    ),
    application(
        "hypercorn (asyncio, TLS)", f"{HYPERCORN} --certfile {{cert}} --keyfile {{key}}", "hypercorn", tls=True
    ),
    application(
        "gunicorn (gthread, TLS)",
        f"{GUNICORN} --threads 8 --certfile {{cert}} --keyfile {{key}} wsgi_app:app",
        "gunicorn",
        tls=True,
    ),
    application("Node (TLS)", f"node {WEB}/node_http.js {{port}} {{cert}} {{key}}", tools=("node",), tls=True),
    _server(
        "Go net/http (TLS)",
        f"{BUILT}go-http {{port}} {{cert}} {{key}}",
        APPLICATION,
        "/refuse",
        tools=("go",),
        version_option="version",
        built="go-http",
        tls=True,
    ),
    _server(
        "nginx (TLS)",
        f"{CONFIGURED}nginx {{port}} {{cert}} {{key}}",
        {**FILES, "upload_path": "/upload"},
        "/refuse",
        tools=("nginx",),
        version_option="-v",
        tls=True,
    ),
    _server(
        "roket serve (TLS)",
        "python -m roket_trio serve {directory} --bind {port} --tls --cert {cert} --key {key}",
        {},
        packages=("roket-trio", "h11"),
        tls=True,
    ),
)
