"""Become a server that is told by a file what to serve: ``configured.py SERVER PORT [CERT KEY]``, in the foreground.

SERVER is ``nginx``, ``apache``, ``lighttpd``, ``caddy`` or ``haproxy``. Each serves what its documentation's first
pages let it serve of what the applications in ``web`` do. What a server writes (its configuration, the number of its
process, bodies of requests) is in a folder of the temporary directory named for its process and that one's start;
folders whose process is no more are removed by the next that starts, and by ``configured.py --clean``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

RUNS = Path(tempfile.gettempdir()) / f"roket-foreign-{os.geteuid()}"
LARGE = 16 << 20
UPLOAD = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nwc -c\n"
SLOW = (
    "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\n"
    "for piece in 0 1 2 3 4 5 6 7 8 9; do echo .; sleep 0.2; done\n"
)
FAIL = (
    "#!/bin/sh\nprintf 'Content-Type: application/octet-stream\\r\\nContent-Length: 200000\\r\\n\\r\\n'\n"
    "head -c 100000 /dev/zero\nexit 1\n"
)


def named_for(pid: str) -> str | None:
    """The name of a process's folder; numbers of processes come again, with another start. None: it is no more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return f"{pid}-{stat.rpartition(')')[2].split()[19]}"  # field 22 of proc(5): starttime


def clean() -> None:
    """Remove what servers have left that are no more."""
    for run in RUNS.iterdir() if RUNS.is_dir() else ():
        if named_for(run.name.partition("-")[0]) != run.name:
            shutil.rmtree(run, ignore_errors=True)


def site(run: Path) -> Path:
    """A folder of files to serve, which another user may read."""
    folder = run / "site"
    folder.mkdir()
    (folder / "index.html").write_text("hello\n", encoding="utf-8")
    with open(folder / "large", "wb") as file:
        file.truncate(LARGE)
    (folder / "limited").write_bytes(bytes(8 << 10))
    for name, script in (("upload", UPLOAD), ("slow", SLOW), ("fail", FAIL)):
        (folder / name).write_text(script, encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def nginx(run: Path, port: int, pair: list[str]) -> tuple[str, list[str]]:
    files = site(run)
    temporary = " ".join(f"{kind}_temp_path {run}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    text = f"""
        {"user root root;" if os.geteuid() == 0 else ""}
        daemon off;
        pid {run}/pid;
        error_log stderr;
        events {{ }}
        http {{
            access_log off;
            client_body_temp_path {run}/body; {temporary}
            server {{
                listen 127.0.0.1:{port}{" ssl" if pair else ""};
                {f"ssl_certificate {pair[0]}; ssl_certificate_key {pair[1]};" if pair else ""}
                root {files};
                location = /slow {{ try_files /limited =404; limit_rate 4k; }}
                location = /refuse {{ client_max_body_size 1; }}
                location = /upload {{
                    client_max_body_size 0;
                    proxy_method GET;
                    proxy_pass_request_body off;
                    proxy_set_header Content-Length "";
                    proxy_pass {"https" if pair else "http"}://127.0.0.1:{port}/;
                }}
            }}
        }}
    """
    return text, ["nginx", "-e", "stderr", "-p", str(run), "-c", "{configuration}"]


def apache(run: Path, port: int, pair: list[str]) -> tuple[str, list[str]]:
    files = site(run)
    modules = ["mpm_event", "authz_core", "alias", "cgid", "dir", "ssl"]
    load = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in modules)
    text = f"""
        {load}
        ServerRoot {run}
        ServerName localhost
        Listen 127.0.0.1:{port}
        PidFile {run}/pid
        ScriptSock {run}/cgid
        Mutex posixsem
        ErrorLog /proc/self/fd/2
        {"User nobody" if os.geteuid() == 0 else ""}
        {"Group nogroup" if os.geteuid() == 0 else ""}
        DocumentRoot {files}
        DirectoryIndex index.html
        {f"SSLEngine on{chr(10)}SSLCertificateFile {pair[0]}{chr(10)}SSLCertificateKeyFile {pair[1]}" if pair else ""}
        <Directory {files}>
            Require all granted
            Options ExecCGI
        </Directory>
        <LocationMatch "^/(upload|slow|fail)$">
            SetHandler cgi-script
        </LocationMatch>
        Redirect 413 /refuse
    """
    return text, ["apache2", "-f", "{configuration}", "-D", "FOREGROUND"]


def lighttpd(run: Path, port: int, pair: list[str]) -> tuple[str, list[str]]:
    files = site(run)
    (run / "uploads").mkdir()
    secure = f'ssl.engine = "enable"\n ssl.pemfile = "{pair[0]}"\n ssl.privkey = "{pair[1]}"' if pair else ""
    text = f"""
        server.modules = ("mod_cgi"{', "mod_openssl"' if pair else ""})
        server.document-root = "{files}"
        server.bind = "127.0.0.1"
        server.port = {port}
        server.upload-dirs = ("{run}/uploads")
        index-file.names = ("index.html")
        {secure}
        server.stream-response-body = 1
        $HTTP["url"] == "/refuse" {{ server.max-request-size = 1 }}
        $HTTP["url"] =~ "^/(upload|slow|fail)$" {{ cgi.assign = ("" => "") }}
    """
    return text, ["lighttpd", "-D", "-f", "{configuration}"]


def caddy(run: Path, port: int, pair: list[str]) -> tuple[str, list[str]]:
    os.environ |= {"XDG_DATA_HOME": str(run), "XDG_CONFIG_HOME": str(run)}
    text = f"""
        {{
            admin off
            auto_https off
        }}
        {"https" if pair else "http"}://127.0.0.1:{port}, {"https" if pair else "http"}://localhost:{port} {{
            {f"tls {pair[0]} {pair[1]}" if pair else ""}
            root * {site(run)}
            respond /refuse "too large" 413
            file_server
        }}
    """
    return text, ["caddy", "run", "--adapter", "caddyfile", "--config", "{configuration}"]


def haproxy(run: Path, port: int, pair: list[str]) -> tuple[str, list[str]]:
    if pair:  # certificate and key in one file
        (run / "pair").write_text("".join(Path(file).read_text(encoding="utf-8") for file in pair), encoding="utf-8")
    text = f"""
defaults
    mode http
    timeout client 30s
    timeout http-request 30s
    timeout http-keep-alive 30s
frontend web
    bind 127.0.0.1:{port}{f" ssl crt {run}/pair" if pair else ""}
    http-request return status 413 content-type text/plain string "too large" if {{ path /refuse }}
    http-request return status 200 content-type text/plain string "hello"
"""
    return text, ["haproxy", "-db", "-f", "{configuration}"]


SERVERS: dict[str, Callable[[Path, int, list[str]], tuple[str, list[str]]]] = {
    "nginx": nginx,
    "apache": apache,
    "lighttpd": lighttpd,
    "caddy": caddy,
    "haproxy": haproxy,
}


def main() -> None:
    clean()
    if sys.argv[1] == "--clean":
        return
    run = RUNS / str(named_for(str(os.getpid())))
    run.mkdir(parents=True)
    text, command = SERVERS[sys.argv[1]](run, int(sys.argv[2]), sys.argv[3:])
    (run / "configuration").write_text(text, encoding="utf-8")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where Debian keeps servers
    program = shutil.which(command[0], path=path)
    if program is None:
        sys.exit(f"{command[0]} is not installed")
    os.execv(program, [word.replace("{configuration}", str(run / "configuration")) for word in command])


if __name__ == "__main__":
    main()
