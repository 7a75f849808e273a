# shellcheck shell=bash
# The phases, in the order in which a whole run has them: `phase NAME TITLE COMMAND`, and what the command does.
# Which tests run where: what loads the machine, soaks, or measures (tests/support/measured.py) has a phase of its own,
# since no version of Python or of a dependency decides that. All others run in each suite.

phase debian 'Debian packages that the tests use' debian
phase readme-example 'README, first command: the main job' readme 1 self
phase readme-tests 'README, second command: the tests' readme 2 self
phase user-example 'README, first command, as an ordinary user' readme 1 user
phase user-tests 'README, second command, as an ordinary user: the tests' readme 2 user
phase lint 'format, lint, types, imports' lint
phase docs 'documentation' docs
phase types 'types of the public names' public_types
phase gate 'system calls, allocations, memory, hops, routes' gate
phase wheel-tests 'the wheel, Python 3.13: the tests' wheel 3.13
phase measured-tests 'the wheel, Python 3.13: tests that load the machine, soak, or measure' measured 3.13
phase lowest-tests 'lowest dependencies, Python 3.11: the tests' lowest 3.11
phase coverage-tests 'Python 3.12, coverage: the tests' coverage 3.12
phase newest-tests 'Debian sid, OpenSSL 3.6, Python 3.14 and 3.15: the tests of sockets and TLS' newest 3.15 3.14
phase strangers "other people's suites, with our names in the place of AnyIO's, Trio's and httpcore's" strangers 3.13
phase examples 'the examples, with the wheel' examples

debian_packages=(
  adb chromium chromium-driver curl debootstrap default-jdk-headless gcc git haproxy iproute2 libc6-dev libnginx-mod-stream ncat
  netcat-openbsd nftables nginx nodejs openssl patch python3-venv redis-server socat strace
)
# The commands that prove that they are there.
commands=(
  adb cc chromedriver chromium curl git haproxy ip java nc.openbsd ncat nft nginx node openssl patch redis-server socat
  strace
)

debian() {
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    # No package may start its service: nginx and haproxy would take ports the tests know nothing about.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
      trap 'rm -f /usr/sbin/policy-rc.d' EXIT
      printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
      chmod +x /usr/sbin/policy-rc.d
    fi
    retry apt-get -qq update
    retry apt-get -qq install -y --no-install-recommends "${debian_packages[@]}" >/dev/null
  else
    echo 'not root, or no apt-get: nothing installed'
  fi
  local missing=() command
  for command in "${commands[@]}"; do
    command -v "$command" >/dev/null || missing+=("$command")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "missing: ${missing[*]}" >&2
    if [ -n "${CI:-}" ]; then return 1; fi
    echo 'not in CI: the tests that need them are skipped'
  fi
}

# readme NUMBER self|user: the command as the README has it, in a copy of the checkout, on a machine that has nothing of
# ours. An ordinary user's python3 is the first on PATH that he may run: Debian's, where ours is in root's home.
readme() {
  local command=$1 place=$work/$2
  command=$(.ci/readme-command "$1")
  local -a become=()
  if [ "$2" = user ]; then
    if [ "$(id -u)" -ne 0 ]; then absent 'only root can become somebody else; the suites before this ran as a user'; fi
    become=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    chmod 711 "$work"
    PATH=$("${become[@]}" sh -c 'IFS=:; for place in $PATH; do if [ -x "$place" ]; then printf "%s:" "$place"; fi; done')
    PATH=${PATH%:} # a shell says "Permission denied" of a command that it looks for in root's home
  fi
  if [ ! -e "$place" ]; then
    mkdir -p "$place/home" "$place/checkout"
    copy_of_checkout "$place/checkout"
    if [ "$2" = user ]; then chown -R 65534:65534 "$place"; fi
  fi
  cd "$place/checkout"
  clean_environment "$place/home"
  clean=("${become[@]}" "${clean[@]}")
  "${clean[@]}" sh -c 'id -un && command -v python3 && python3 --version && env | cut -d = -f 1 | paste -s'
  echo "+ $command"
  again=("${clean[@]}" .venv/bin/python -m pytest)
  tests "${clean[@]}" bash -c "$command"
}

node_for_pyright() {
  export PYRIGHT_PYTHON_GLOBAL_NODE=1 PYRIGHT_PYTHON_IGNORE_WARNINGS=1
  if ! command -v node >/dev/null; then # a wheel with node in it, rather than a download by pyright
    retry "$work/tools/bin/python" -m pip install -q 'pyright[nodejs]'
  fi
}

lint() {
  tools
  node_for_pyright
  PATH=$work/tools/bin:$PATH .ci/lint
}

docs() {
  tools
  PATH=$work/tools/bin:$PATH .ci/docs
}

public_types() {
  tools
  distributions
  environment typed python3 "${wheel}[httpx]"
  node_for_pyright
  mkdir -p "$work/elsewhere"
  cd "$work/elsewhere" # the installed wheel is judged, py.typed included
  # --verifytypes takes the environment from PATH; it disregards --pythonpath.
  PATH=$work/typed/bin:$PATH "$work/tools/bin/pyright" --verifytypes roket_trio --ignoreexternal
}

# What every build must keep, counted and not timed.
gate() {
  tools
  timeout --kill-after=30s "$suite_limit" "$work/tools/bin/python" -m benchmarks gate
}

wheel() {
  local python
  python=$(find_python "$1") || absent "no Python $1 on this machine"
  suite wheel "$python" -- -m pytest -n 4
}

measured() {
  local python
  python=$(find_python "$1") || absent "no Python $1 on this machine"
  export ROKET_SOAK_CONNECTIONS=20000 ROKET_INTERRUPTIONS=1000 ROKET_ACCIDENTS_SECONDS=120
  suite measured "$python" -- -m pytest --measured only
}

# The runtime dependencies of pyproject.toml at their floors.
lowest() {
  local python floors
  python=$(find_python "$1") || absent "no Python $1 on this machine"
  mapfile -t floors < <("$python" -c "
import tomllib
for requirement in tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']:
    print(requirement.replace('>=', '=='))")
  echo "floors: ${floors[*]}"
  suite lowest "$python" "${floors[@]}" -- -m pytest -n 4
}

# Branch coverage, also of the processes that the tests start; [tool.coverage.report] has the floor.
coverage() {
  local python status
  python=$(find_python "$1") || absent "no Python $1 on this machine"
  mkdir "$work/coverage.tree"
  copy_of_checkout "$work/coverage.tree"
  cd "$work/coverage.tree"
  environment coverage "$python" -e '.[test]' 'coverage>=7.10'
  python=$work/coverage/bin/python again=("$work/coverage/bin/python" -m pytest)
  set +e
  (
    set -e
    tests "$python" -m coverage run -m pytest -n 4
  )
  status=$?
  set -e
  "$python" -m coverage combine -q
  "$python" -m coverage report --skip-covered --sort=cover
  return "$status"
}

# newest PYTHON...: Pythons and an OpenSSL that this Debian has not, in a folder with another one. What is mounted in it
# belongs to the processes in there alone, so that nothing but files is left to be removed. Without curl and the like;
# what needs them is skipped there, and runs in the other suites.
newest() {
  local root=$work/newest version file
  local -a packages=() inside=()
  local status=0
  if [ "$(id -u)" -ne 0 ]; then absent 'only root may make and enter a folder with another Debian'; fi
  command -v debootstrap >/dev/null || absent 'no debootstrap'
  unshare --mount true 2>/dev/null || absent 'nothing can be mounted here'
  for version in "$@"; do packages+=("python$version" "python$version-venv"); done
  if ! debootstrap --variant=minbase "--include=ca-certificates,$(IFS=, && echo "${packages[*]}")" sid "$root" >"$work/debootstrap.log" 2>&1; then
    tail -n 3 "$work/debootstrap.log"
    absent 'Debian sid cannot be had'
  fi
  distributions
  mkdir "$root/tree"
  tar -xzf "$work"/dist/*.tar.gz -C "$root/tree" --strip-components=1
  rm -r "$root/tree/roket_trio"
  cp "$wheel" "$root/"
  # What pip and the resolver need to reach an index as they do out here.
  for file in /etc/resolv.conf /etc/pip.conf "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}"; do
    if [ -f "$file" ]; then
      mkdir -p "$root$(dirname "$file")"
      cp -L "$file" "$root$file"
    fi
  done
  clean_environment /root
  inside=(
    unshare --mount --propagation private
    sh -c 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && cd "$0/tree" && exec chroot "$0" "$@"' "$root"
    "${clean[@]}" PATH=/usr/sbin:/usr/bin:/sbin:/bin
  )
  cd "$root/tree"
  for version in "$@"; do
    "${inside[@]}" "python$version" -m venv "/$version"
    retry "${inside[@]}" "/$version/bin/python" -m pip install -q "/${wheel##*/}[test]"
    "${inside[@]}" "/$version/bin/python" -c 'import ssl, sys; print(sys.version, ssl.OPENSSL_VERSION, sep="\n")'
    again=("${inside[@]}" sh -c "cd /tree && exec /$version/bin/python -m pytest \"\$@\"" pytest)
    tests "${again[@]}" -n 4 tests/{connection,errors,files,integrations,loops,net,process,serving,streams,trio_compat} || status=$?
  done
  return "$status"
}

# Their tests are in their source distributions, in pinned versions; tests/strangers says which, and what may differ.
strangers() {
  local python
  python=$(find_python "$1") || absent "no Python $1 on this machine"
  distributions
  environment strangers "$python" "${wheel}[httpx,test]"
  mkdir "$work/strangers.tree"
  tar -xzf "$work"/dist/*.tar.gz -C "$work/strangers.tree" --strip-components=1
  rm -r "$work/strangers.tree/roket_trio"
  cd "$work/strangers.tree"
  timeout --kill-after=30s "$suite_limit" "$work/strangers/bin/python" -m tests.strangers "$work/strangers.suites"
}

examples() {
  local example
  distributions
  environment examples python3 "${wheel}[cli]"
  cp -r examples "$work/examples-tree"
  cd "$work/examples-tree"
  for example in *.py; do
    echo "+ python examples/$example"
    timeout --kill-after=30s 5m "$work/examples/bin/python" "$example" </dev/null
  done
}
